"""Hosts start while the inputs are read; whatever ends the run then, no process stays."""

import operator
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from small import make_spec

from testbed.core.errors import UserError
from testbed.engine.hosts.backend import InlineBackend
from testbed.engine.hosts.host import HostData
from testbed.engine.hosts.starting import StartingHosts, starting_hosts

ROOT = Path(__file__).resolve().parents[4]
DATA = HostData(np.zeros((1, 1, 8, 8), np.uint8), np.zeros(1, np.int64), [np.arange(1)])


class Hosts:
    data, closed = None, False

    def load(self, data):
        self.data = data

    def close(self):
        self.closed = True


def test_hosts_start_beside_the_run_and_get_the_data_when_they_are_there():
    begun, go_on, hosts = threading.Event(), threading.Event(), Hosts()

    def start():
        begun.set()
        assert go_on.wait(60)
        return hosts

    with StartingHosts(start) as starting:
        assert begun.wait(60)  # while this thread works on
        go_on.set()
        assert starting.with_data(DATA) is hosts
    assert hosts.data is DATA
    assert not hosts.closed, "the caller has taken them"


def test_hosts_that_nobody_takes_are_closed():
    hosts = Hosts()
    with pytest.raises(UserError, match="no such data"), StartingHosts(lambda: hosts):
        raise UserError("no such data")
    assert hosts.closed
    assert hosts.data is None


def test_why_hosts_could_not_start_is_raised_where_they_are_needed():
    def start():
        raise UserError("no room")

    with StartingHosts(start) as starting, pytest.raises(UserError, match="no room"):
        starting.with_data(DATA)


def test_one_process_needs_no_start():
    with starting_hosts("inline", None) as starting:
        assert isinstance(starting.with_data(DATA), InlineBackend)


def test_the_thread_stays_because_the_system_would_end_ray_with_it():
    threads = []
    with StartingHosts(lambda: threads.append(threading.current_thread()) or Hosts()) as starting:
        starting.with_data(DATA)
    assert threads[0].is_alive()
    assert threads[0].daemon


@pytest.mark.processes
def test_ray_works_on_after_its_start_in_the_thread():
    with starting_hosts("ray", 2) as starting:
        backend = starting.with_data(DATA)
    try:
        for _ in range(2):
            backend.install([make_spec()])
            jobs = [(f"job {n}", operator.mul, (n, 2)) for n in range(3)]
            assert backend.run_jobs(jobs) == [0, 2, 4]
    finally:
        backend.close()


@pytest.mark.processes
def test_one_adversary_starts_before_its_jobs_and_the_others_with_them():
    with starting_hosts("ray", 2) as starting:
        backend = starting.with_data(DATA)
    hosts = {"driver", "host 0", "host 1"}
    try:
        backend.prepare_jobs()
        assert set(backend.usage()) == hosts | {"adversary 0"}
        (early,) = backend.run_jobs([("one job", os.getpid, ())])
        assert set(backend.usage()) == hosts | {"adversary 0"}
        jobs = [(f"job {n}", os.getpid, ()) for n in range(5)]
        assert early in backend.run_jobs(jobs)
        assert set(backend.usage()) == hosts | {"adversary 0", "adversary 1"}
    finally:
        backend.close()


@pytest.mark.processes
@pytest.mark.parametrize("ended_by", ["wrong data", "Ctrl-C"])
def test_a_run_that_ends_while_ray_starts_leaves_nothing(ended_by, tiny, write_scenario, tmp_path):
    tiny["engine"] = {"backend": "ray", "hosts": 2, "shard_size": 2, "cloud_threads": 1}
    if ended_by == "wrong data":
        tiny["data"] |= {"name": "parquet_folder", "path": str(tmp_path / "missing")}
    temporary = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # short, for Ray's sockets
    process = subprocess.Popen(
        [sys.executable, "-m", "testbed.run", str(write_scenario(tiny)), "--out", tmp_path / "out"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if ended_by == "Ctrl-C":
        deadline = time.monotonic() + 120
        while not any(temporary.glob("sf-*/session_*")):  # Ray has begun
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (2 if ended_by == "wrong data" else 130)
    assert "Traceback" not in errors
    assert len(errors.strip().splitlines()) == 1 or ended_by == "Ctrl-C", errors
    left = [
        " ".join(other.info["cmdline"] or [])
        for other in psutil.process_iter(["cmdline"])
        if str(temporary) in " ".join(other.info["cmdline"] or [])
    ]
    assert left == []
    assert list(temporary.iterdir()) == []
    temporary.rmdir()
