"""Serialised sizes of a request's messages, measured by sending one request."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from clients.device_spec import deployable
from server.cloud import Cloud
from server.serving import Request, Serving
from testbed.engine.hosts.backend import InlineBackend
from testbed.engine.hosts.host import HostData, node_of
from testbed.engine.network.costs import DeviceCosts
from testbed.engine.network.grid import FleetGrid, GridOptions
from testbed.engine.network.ledger import Ledger
from testbed.engine.setting.models import ArmModels
from testbed.scenario.training import CloudOptimiserSection

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class MessageBytes:
    """Bytes of a request, sent as features or as a raw image, and of its answer; each by tier."""

    features: Counts
    raw: Counts
    answer: Counts


class _FirstDeviceGrid(FleetGrid):
    """A Grid that connects only the fleet's first device."""

    @property
    def _connected(self) -> int:
        return 1


def message_bytes(models: ArmModels, costs: DeviceCosts) -> MessageBytes:
    """Serve one blank image from the fleet's first device, in every tier, as features and raw."""
    tiers = range(len(models.tiers))
    features = [_one_request(models, costs, tier, fits=True) for tier in tiers]
    raw = [_one_request(models, costs, tier, fits=False) for tier in tiers]
    return MessageBytes(
        np.array([up for up, _ in features]),
        np.array([up for up, _ in raw]),
        np.array([down for _, down in features]),
    )


def _one_request(models: ArmModels, costs: DeviceCosts, tier: int, fits: bool) -> tuple[int, int]:
    """Return the bytes up and down of one request.

    Parameters
    ----------
    fits : whether the front-end fits the device; otherwise it sends the raw image.
    """
    image = np.zeros((1, *models.main.device_spec.image_shape), dtype=np.uint8)
    zero = np.zeros(1, dtype=np.int64)
    backend = InlineBackend(HostData(image, zero, [zero]))
    backend.install([each.device_spec for each in models.tiers])
    every_model = np.full(len(costs.fleet.models), fits)
    of_tier = DeviceCosts(
        costs.fleet,
        [replace(item, serves=every_model) for item in costs.tiers],
        np.full(costs.devices, tier, dtype=costs.tier_of.dtype),
    )
    options = GridOptions(1.0, 1, lambda device, at_s, draw: True, lambda images: 0.0)
    grid = _FirstDeviceGrid(backend, of_tier, Ledger(costs.devices), [], options)
    shape = models.tiers[tier].edge.front_end.feature_shape
    initial = [each.edge.initial_weights() for each in models.tiers]
    serving = Serving(
        Cloud(models.cloud, CloudOptimiserSection(), seed=0, threads=1),
        [(deployable(parameters), statistics) for parameters, statistics in initial],
        {node_of(0): tier},
        None if fits else lambda image, node, request: torch.zeros(1, *shape),
    )
    serving.deploy(grid)
    serving.answer(grid, [Request(0, node_of(0), 0, 0.0)], lambda count: None)
    charges = grid.request_charges[0]
    assert charges.answer is not None
    return charges.features.uplink_bytes, charges.answer.downlink_bytes
