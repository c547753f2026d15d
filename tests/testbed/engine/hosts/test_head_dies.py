"""The head of a joined Ray cluster dies in the middle of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from clusters import cluster_of_one_node
from faults.campaign import rounds_done
from faults.runs import start

from testbed.core.project import PROJECT_ROOT
from testbed.run import main

RAY_ITSELF_NOTICES_AFTER_S = 60.0  # that its head is gone


@contextmanager
def head_of_a_cluster() -> Iterator[tuple[Any, str]]:
    """Start the head of a cluster, as ``ray start --head`` does; yield its node and address."""
    with cluster_of_one_node(2) as cluster:
        yield cluster.head_node, cluster.address


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.parametrize("dies", ["gcs_server", "everything"])
def test_the_run_ends_with_one_sentence_and_can_be_resumed(
    tiny, tmp_path, write_scenario, monkeypatch, dies
):
    """The GCS alone, as if the head were another machine; or with everything beside it."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT))
    tiny["arms"] = tiny["arms"][:1]
    tiny["training"]["rounds"] = 60
    tiny["engine"]["backend"] = "ray"
    scenario, out = write_scenario(tiny), tmp_path / "run"
    with head_of_a_cluster() as (head, address):
        watched = start(scenario, out, ("--ray-address", address))
        assert watched.wait_until(lambda: rounds_done(out) >= 1)
        if dies == "gcs_server":
            head.kill_gcs_server(check_alive=False)
        else:
            head.kill_all_processes(check_alive=False, allow_graceful=False)
        seconds = -watched.seconds()
        ended = watched.end()
        seconds += ended.wall_s
    assert ended.exit_code == 1, ended.errors
    assert ended.is_one_sentence, ended.errors
    assert ended.last_words.endswith("continue with --resume")
    assert ended.processes_left == 0
    assert seconds < RAY_ITSELF_NOTICES_AFTER_S
    assert (
        main([str(scenario), "--out", str(out), "--resume", "--set", "engine.backend=inline"]) == 0
    )
