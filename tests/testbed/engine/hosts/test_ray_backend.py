"""Processes of the Ray backend: loopback only, one thread each, and nothing left behind."""

import operator
import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from small import make_deployed, make_spec

from testbed.core.errors import HostError, UserError
from testbed.engine.hosts.on_ray.hosts import _Call
from testbed.scenario.loading import parse_yaml

pytestmark = pytest.mark.processes
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def test_every_process_listens_on_loopback_only(backend):
    backend.install([make_spec()])
    listening = {
        connection.laddr.ip
        for child in psutil.Process().children(recursive=True)
        for connection in child.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening
    assert listening <= set(LOOPBACK)


def test_no_useless_process_runs(backend):
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    for needed in ("gcs_server", "raylet", "_HostActor"):
        assert any(needed in command for command in commands), needed
    for useless in ("dashboard.py", "autoscaler", "log_monitor"):
        assert not any(useless in command for command in commands), useless


def test_jobs_run_in_one_thread_each_and_keep_their_order(backend):
    done = []
    jobs = [(f"job {n}", np.sum, (np.full(3, n),)) for n in range(5)]
    assert backend.run_jobs(jobs, done.append) == [3 * n for n in range(5)]
    assert sorted(done) == [f"job {n}" for n in range(5)]
    threads = [(f"threads {n}", torch.get_num_threads, ()) for n in range(2)]
    assert backend.run_jobs(threads) == [1, 1]


def test_failures_of_jobs_keep_their_type(backend):
    with pytest.raises(HostError, match="job failed: ZeroDivisionError"):
        backend.run_jobs([("job", operator.floordiv, (1, 0))])
    with pytest.raises(UserError, match="line 1"):
        backend.run_jobs([("job", parse_yaml, ("a: [", "file"))])


def test_queries_are_answered_by_another_process_than_the_adversarys(backend):
    front_end = make_deployed()
    images = np.random.default_rng(0).random((3, 1, 32, 32), dtype=np.float32)
    access = backend.open_queries(front_end, "spy", 20)
    (answer,) = backend.run_jobs([("asks", access.query, (images, 2))])
    assert np.array_equal(answer, front_end.query(images, 2))
    with pytest.raises(UserError, match="17 left"):
        backend.run_jobs([("asks too much", access.query, (np.repeat(images, 6, axis=0), 2))])
    backend.close_queries(access)
    assert "queries" in backend.usage()


def test_a_job_whose_process_died_starts_over_with_its_queries(backend, tmp_path):
    front_end = make_deployed()
    images = np.random.default_rng(1).random((3, 1, 32, 32), dtype=np.float32)
    access, begun = backend.open_queries(front_end, "spy", 3), tmp_path / "begun"

    def dies_once():
        answer = access.query(images, 2)
        if not begun.exists():
            begun.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    jobs = [("dies once", dies_once, ()), ("lives", abs, (-1,))]
    answer, other = backend.run_jobs(jobs, accesses=[access, None])
    assert np.array_equal(answer, front_end.query(images, 2))
    assert (other, backend.job_restarts) == (1, 1)
    with pytest.raises(HostError, match=r"dies: its process died 3 times in a row.*--resume"):
        backend.run_jobs([("dies", os._exit, (1,))])
    assert backend.job_restarts == 3
    assert backend.run_jobs([("lives", abs, (-2,))]) == [2]
    backend.close_queries(access)


def test_usage_names_every_process(backend):
    usage = backend.usage()
    assert {"driver", "host 0", "host 1"} <= set(usage)
    assert all(item.cpu_s > 0 and item.peak_rss_mb > 50 for item in usage.values())


def test_a_host_that_always_dies_stops_the_run_and_is_named(backend):
    def die(actor):
        # Inside the call: ``ray.kill`` is asynchronous, and a call after it may still be answered.
        return actor.install_app.remote(lambda data: os._exit(1))

    with pytest.raises(HostError, match=r"host 1 died 3 times in a row, with this.*--resume"):
        backend._hosts._results([_Call(1, "with this", die)])
    assert backend.restarts == 2


def test_a_dead_raylet_ends_every_wait_and_leaves_nothing(backend):
    # Python keeps a process of its own while this one lives, once any test has spawned one.
    children = [
        child
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE  # a host that the test before ended
        and "multiprocessing.resource_tracker" not in " ".join(child.cmdline())
    ]
    (raylet,) = [child for child in children if child.name() == "raylet"]
    raylet.kill()
    with pytest.raises(HostError, match="--resume"):
        backend.run_jobs([("sleeps", time.sleep, (3600,))])
    backend.close()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert not Path(backend._cluster.folder).exists()
