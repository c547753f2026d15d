"""The engine: FleetGrid over Ray hosts, with its ledger and independent Flower replies."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from server.aggregation import mean_message, metric, summed
from speed import central_training
from speed.apps import client_app, serve_rounds, train_rounds
from speed.central_training import CASES
from speed.split_round import device_spec
from speed.split_round import train_rounds as train_split_rounds
from speed.workload import Pool, rows_of
from testbed.core.process import tune_malloc
from testbed.engine.hosts.backend import Backend
from testbed.engine.hosts.host import HostData
from testbed.engine.hosts.on_ray.backend import RayBackend
from testbed.engine.network.grid import FleetGrid, GridOptions
from testbed.engine.network.ledger import Charge, Charges, Ledger
from testbed.wire.held import describe
from testbed.wire.protocol import ARRAYS, NUM_EXAMPLES
from testbed.wire.sums import shard_numbers

HOSTS = 2
SHARD_SIZE = 50


class FreeOfCharge:
    """Costs of devices with infinite speed and memory; bytes are charged."""

    def __init__(self, devices: int) -> None:
        self.devices = devices
        self.fleet = SimpleNamespace(rtt_ms=np.zeros(devices))
        self.tier_of = np.zeros(devices, dtype=np.int64)
        self.training_feasible = self.serving_feasible = np.ones(devices, dtype=np.bool_)

    def can_train(self, device: int, tier: int | None = None) -> bool:
        """Return True for every device."""
        return True

    def can_serve(self, device: int) -> bool:
        """Return True for every device."""
        return True

    def charge(
        self, device: int, message_type: str, examples: int, delivery: Any, *_: Any
    ) -> Charge:
        """Charge the bytes of both messages."""
        return Charge(delivery.uplink_bytes, delivery.downlink_bytes, 0.0, 0.0, 0.0, 0.0)

    def charge_all(self, devices: NDArray[np.int64], delivery: Any, *_: Any) -> Charges:
        """Charge the bytes of one exchange to many devices."""
        once, free = np.ones(len(devices), dtype=np.int64), np.zeros(len(devices))
        sent, received = once * delivery.uplink_bytes, once * delivery.downlink_bytes
        return Charges(sent, received, free, free, free)


def merged(replies: list[Message]) -> list[Message]:
    """Return one reply with the mean of the devices' arrays, as the testbed's server does.

    It accepts the devices by the descriptions of their arrays; the hosts add the arrays up.
    """
    assert all(describe(reply.content[ARRAYS], ARRAYS).sound for reply in replies)
    weights = [int(metric(reply, NUM_EXAMPLES)) for reply in replies]
    nodes = [reply.metadata.src_node_id for reply in replies]
    shard_of = shard_numbers(nodes, SHARD_SIZE)
    sums = summed(replies, weights, [shard_of[node] for node in nodes], [ARRAYS])
    return [mean_message(replies[0], sums)]


def train_and_merge(grid: Grid, devices: int, rounds: int) -> list[float]:
    """Run workload A; return the seconds of each round."""
    return train_rounds(grid, devices, rounds, merged)


def grid_of(backend: Backend, devices: int) -> FleetGrid:
    """Return a Grid over devices that cost nothing and are always online."""
    return FleetGrid(
        backend,
        FreeOfCharge(devices),  # type: ignore[arg-type]
        Ledger(devices),
        [],
        GridOptions(
            round_deadline_ms=1e9,
            shard_size=SHARD_SIZE,
            online=lambda device, at_s, draw: True,
            cloud_step_ms=lambda images: 0.0,
        ),
    )


def run(workload: str, devices: int, rounds: int) -> list[float]:
    """Return the seconds of each round."""
    torch.set_num_threads(1)
    tune_malloc()
    if workload in CASES:
        return central_training.run(workload, rounds)
    here = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join((here, os.environ.get("PYTHONPATH", "")))
    pool = Pool.make()
    rows = [np.arange(len(pool.labels))[rows_of(device)] for device in range(devices)]
    with RayBackend(HOSTS, HostData(pool.images, pool.labels, rows)) as backend:
        if workload == "C":
            backend.install([device_spec()])
        else:
            backend.install_app(client_app)
        grid = grid_of(backend, devices)
        loops = {"A": train_and_merge, "B": serve_rounds, "C": train_split_rounds}
        return loops[workload](grid, devices, rounds)
