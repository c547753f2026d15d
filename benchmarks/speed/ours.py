"""The engine: FleetGrid over Ray hosts, with its ledger and independent Flower replies."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from speed.apps import ROUNDS, client_app
from speed.split_round import device_spec, train_rounds
from speed.workload import Pool, rows_of
from testbed.core.process import tune_malloc
from testbed.engine.hosts.host import HostData
from testbed.engine.hosts.on_ray.backend import RayBackend
from testbed.engine.network.grid import FleetGrid, GridOptions
from testbed.engine.network.ledger import Charge, Ledger

HOSTS = 2
SHARD_SIZE = 50


class FreeOfCharge:
    """Costs of devices with infinite speed and memory; bytes are charged."""

    def __init__(self, devices: int) -> None:
        self.devices = devices
        self.fleet = SimpleNamespace(rtt_ms=np.zeros(devices))

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


def run(workload: str, devices: int, rounds: int) -> list[float]:
    """Return the seconds of each round."""
    torch.set_num_threads(1)
    tune_malloc()
    here = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join((here, os.environ.get("PYTHONPATH", "")))
    pool = Pool.make()
    rows = [np.arange(len(pool.labels))[rows_of(device)] for device in range(devices)]
    with RayBackend(HOSTS, HostData(pool.images, pool.labels, rows)) as backend:
        if workload == "C":
            backend.install([device_spec()])
        else:
            backend.install_app(client_app)
        grid = FleetGrid(
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
        return (ROUNDS | {"C": train_rounds})[workload](grid, devices, rounds)
