"""The limit of workload C computes what the engine computes."""

import numpy as np
import pytest
import torch
from speed import tight_split
from speed.ours import grid_of
from speed.split_round import device_spec, server_of
from speed.workload import Pool, rows_of

from testbed.engine.hosts.backend import InlineBackend
from testbed.engine.hosts.host import HostData

DEVICES, ROUNDS = 4, 1  # after a second round, Adam has enlarged the differences of rounding


@pytest.fixture(scope="module")
def engine():
    """Return the engine's averaged weights after the rounds."""
    pool = Pool.make()
    rows = [np.arange(len(pool.labels))[rows_of(device)] for device in range(DEVICES)]
    with InlineBackend(HostData(pool.images, pool.labels, rows)) as backend:
        backend.install([device_spec()])
        server = server_of(DEVICES, ROUNDS, threads=1)
        server.train(grid_of(backend, DEVICES), lambda record: None)
    return server.tiers[0].parameters


def in_one_process():
    """Run the limit's rounds without processes; return the averaged weights."""
    spec = device_spec()
    front_end = tight_split.front_end_of(spec)
    cloud = tight_split.CloudHalf(front_end, spec.seed)
    exchange = tight_split.shared_exchange(DEVICES, front_end.feature_shape)
    share = tight_split.Share(Pool.make(), range(DEVICES), exchange)
    weights = tight_split.weights_of(front_end)
    for server_round in range(1, ROUNDS + 1):
        share.start(weights)
        for step in range(tight_split.LOCAL_STEPS):
            share.forward(server_round, step)
            gradients = cloud.step(exchange["z"], exchange["targets"], server_round, step)
            exchange["gradients"].copy_(gradients)
            share.backward(server_round, step)
        weights = {name: value / DEVICES for name, value in share.total(weights).items()}
    return weights


def assert_equal_but_for_rounding(found, engine):
    """Compare weights, and the difference with the way that training moved them."""
    first = tight_split.weights_of(tight_split.front_end_of(device_spec()))
    assert set(found) == set(engine) == set(first)
    moved = {name: value - first[name] for name, value in engine.items()}
    apart = {name: value - engine[name] for name, value in found.items()}
    assert _norm(moved) > 0.01
    assert _norm(apart) < 1e-3 * _norm(moved)


def _norm(weights):
    return float(torch.cat([value.flatten() for value in weights.values()]).norm())


@pytest.mark.parametrize("kept", [DEVICES, 1])
def test_weights_are_the_engines(engine, kept, monkeypatch):
    monkeypatch.setattr(tight_split, "KEPT_GRAPHS", kept)
    assert_equal_but_for_rounding(in_one_process(), engine)


@pytest.mark.processes
def test_processes_share_the_work(engine):
    _, found = tight_split.rounds_of(DEVICES, ROUNDS, cloud_threads=1)
    assert_equal_but_for_rounding(found, engine)
