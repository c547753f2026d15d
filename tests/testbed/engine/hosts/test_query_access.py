"""Queries without weights: the adversary holds a ticket, and the limit is enforced."""

import pickle

import numpy as np
import pytest
from small import make_deployed
from whole_runs import run

from testbed.core.errors import UserError
from testbed.engine.hosts.backend import InlineBackend
from testbed.engine.hosts.host import HostData
from testbed.engine.hosts.queries import QueryAccess


@pytest.fixture
def deployed():
    return make_deployed()


@pytest.fixture
def backend():
    images = np.zeros((8, 1, 32, 32), dtype=np.uint8)
    rows = [np.arange(4), np.arange(4, 8)]
    return InlineBackend(HostData(images, np.zeros(8, dtype=np.int64), rows))


def test_answers_equal_those_of_the_front_end(deployed, backend):
    images = np.random.default_rng(0).random((3, 1, 32, 32), dtype=np.float32)
    access = backend.open_queries(deployed, "spy", None)
    assert np.array_equal(access.query(images, 4), deployed.query(images, 4))
    backend.close_queries(access)
    with pytest.raises(KeyError):
        access.query(images, 4)


def test_each_adversarys_limit_is_enforced(deployed, backend):
    images = np.zeros((4, 1, 32, 32), dtype=np.float32)
    access, other = (backend.open_queries(deployed, name, 10) for name in ("spy", "other"))
    access.query(images, 0)
    access.query(images, 0)
    with pytest.raises(UserError, match=r"adversaries\.spy\.knowledge\.queries: .*2 left"):
        access.query(images, 0)
    assert len(other.query(images, 0)) == 4


def test_withheld_weights_are_not_in_the_job(tiny, tmp_path, monkeypatch):
    """The pickle of a job holds no array of the front-end; with weights granted it does."""
    kept = {}
    run_jobs = InlineBackend.run_jobs

    def keep(self, jobs, *others):
        for name, _, (job,) in jobs:
            kept[name] = (pickle.dumps(job), job)
        return run_jobs(self, jobs, *others)

    monkeypatch.setattr(InlineBackend, "run_jobs", keep)
    tiny["arms"] = tiny["arms"][:1]
    queries = {"weights": False, "queries": 50}
    withheld = {"weights": False, "queries": False}
    decoder = {"max_epochs": 1, "min_epoch_steps": 1}
    tiny["adversaries"] = [
        {"name": "open", "attack": "ridge"},
        {"name": "asks", "attack": "ridge", "knowledge": queries},
        {
            "name": "blind",
            "attack": {"name": "substitute", "steps": 2, "decoder": decoder},
            "knowledge": withheld,
        },
    ]
    run(tiny, tmp_path / "run")
    jobs = {name.split("'")[1]: pair for name, pair in kept.items()}
    weights = next(
        value.tobytes()
        for name, value in jobs["open"][1].evidence.oracle.parameters.items()
        if value.size > 50
    )
    assert weights in jobs["open"][0]
    assert weights not in jobs["asks"][0]
    assert weights not in jobs["blind"][0]
    assert isinstance(jobs["asks"][1].evidence.oracle, QueryAccess)
    assert not hasattr(jobs["asks"][1].evidence.oracle, "differentiable_query")
    assert jobs["blind"][1].evidence.oracle is None
    assert jobs["open"][1].evidence.architecture is None
    assert jobs["blind"][1].evidence.architecture.name == "cnn"
