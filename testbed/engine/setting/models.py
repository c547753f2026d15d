"""The models of an arm with their sizes: one front-end per tier, one shared cloud model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clients.defences.base import Batch
from clients.device_spec import DeviceSpec, EdgeModel, initialise
from server.entry_layers import TieredCloudModel
from testbed.core.errors import UserError
from testbed.core.registries import CLOUD_MODELS
from testbed.core.seeds import torch_generator
from testbed.engine.setting.device_work import NOTHING_ELSE, DeviceWork, device_work
from testbed.engine.setting.run_context import RunInputs
from testbed.engine.setting.tiers import TierSpec, plan_tiers
from testbed.fleet.layer_stats import LayerStats, layer_stats
from testbed.scenario.components import Component
from testbed.scenario.schema import Arm


@dataclass(frozen=True)
class TierModel:
    """The models of one tier of an arm, with their sizes for one image.

    Attributes
    ----------
    edge_stats, cloud_stats : of the front-end, and of the tier's path through the cloud model.
    adversary_stats : of the network that the defence trains on the device but does not deploy.
    work : of the device beside the front-end.
    """

    device_spec: DeviceSpec
    edge: EdgeModel
    edge_stats: LayerStats
    cloud_stats: LayerStats
    adversary_stats: LayerStats | None = None
    work: DeviceWork = NOTHING_ELSE


@dataclass(frozen=True)
class ArmModels:
    """An arm's device specifications, its untrained halves and their sizes.

    Attributes
    ----------
    tiers : the first is the arm's own front-end, whether or not a device runs it.
    tier_of : (N,) the tier of every device.
    """

    arm: str
    tiers: tuple[TierModel, ...]
    tier_of: NDArray[np.unsignedinteger[Any]]
    cloud: TieredCloudModel

    def used(self) -> list[int]:
        """Return the tiers that at least one device is in."""
        return [int(tier) for tier in np.unique(self.tier_of)]

    def share(self, tier: int) -> float:
        """Return the share of the devices that are in a tier."""
        return float((self.tier_of == tier).mean())

    @property
    def main(self) -> TierModel:
        """Return the tier that represents the arm: its own front-end, if any device runs it."""
        return self.tiers[self.used()[0]]


def arm_models(inputs: RunInputs, arm: Arm) -> ArmModels:
    """Build the front-ends of an arm's tiers and the cloud model that they share.

    Raises
    ------
    UserError : a front-end does not work at this image size or with its defence.
    """
    scenario, pool = inputs.scenario, inputs.data.pool
    image_shape, num_classes = pool.image_shape, pool.num_classes
    channel_mean = tuple(float(value) for value in inputs.data.mean)
    channel_std = tuple(float(value) for value in inputs.data.std)

    def device_spec_of(spec: TierSpec) -> DeviceSpec:
        return DeviceSpec(
            arm=arm.name,
            seed=scenario.seed,
            front_end=spec.front_end,
            defence=spec.defence,
            image_shape=image_shape,
            num_classes=num_classes,
            channel_mean=channel_mean,
            channel_std=channel_std,
            batch_size=scenario.training.batch_size,
            optimiser=scenario.training.edge_optimiser,
            tier=spec.name,
            precision=spec.precision,
        )

    def work_of(device_spec: DeviceSpec) -> DeviceWork:
        rounds, trains = device_spec.precision == "int8", scenario.training.fleet_rounds > 0
        return device_work(plain_edge(device_spec), rounds, trains)

    with _refused(arm.name, arm.front_end, arm.defence, image_shape):
        plan = plan_tiers(
            scenario.fleet, inputs.fleet, arm, lambda spec: edge_stats(device_spec_of(spec))
        )
    built: list[tuple[DeviceSpec, EdgeModel, LayerStats]] = []
    for spec in plan.specs:
        device_spec = device_spec_of(spec)
        with _refused(arm.name, spec.front_end, spec.defence, image_shape):
            edge = device_spec.build()
            built.append((device_spec, edge, edge_stats(device_spec)))
            _try_defence(edge)
    own = built[0][1].front_end
    shapes = [edge.front_end.feature_shape for _, edge, _ in built]
    name, options = own.cloud_model
    with _refused(arm.name, arm.front_end, arm.defence, image_shape):
        trunk = CLOUD_MODELS.create(
            name, options, feature_shape=own.feature_shape, num_classes=num_classes
        )
        cloud = TieredCloudModel(trunk, shapes, num_classes)
        initialise(cloud, torch_generator(scenario.seed, "cloud weights"))
        paths = [layer_stats(cloud.path(tier), shapes[tier]) for tier in range(len(shapes))]
        tiers = [
            TierModel(device_spec, edge, stats, path, _adversary_stats(edge), work_of(device_spec))
            for (device_spec, edge, stats), path in zip(built, paths, strict=True)
        ]
    return ArmModels(arm.name, tuple(tiers), plan.tier_of, cloud)


@contextmanager
def _refused(
    arm: str, front_end: Component, defence: Component, image_shape: tuple[int, int, int]
) -> Iterator[None]:
    """Name the front-end and defence that do not work, instead of a traceback."""
    try:
        yield
    except UserError as error:
        raise UserError(f"arms.{arm}: front_end '{front_end.name}': {error}") from None
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(
            f"arms.{arm}: front_end '{front_end.name}' with defence '{defence.name}' does not work "
            f"on images of {image_shape} ({error})"
        ) from None


def edge_stats(device_spec: DeviceSpec) -> LayerStats:
    """Return the sizes of a device's front-end for one image, independent of its precision.

    Raises
    ------
    ValueError, RuntimeError : the front-end or defence does not work at this image size.
    UserError : its operations cannot be counted.
    """
    return layer_stats(plain_edge(device_spec).on_device(), device_spec.image_shape)


def plain_edge(device_spec: DeviceSpec) -> EdgeModel:
    """Return a front-end in float32, without the cost of emulating another precision."""
    return replace(device_spec, precision="float32").build()


def _adversary_stats(edge: EdgeModel) -> LayerStats | None:
    adversary = edge.defence.adversary
    return None if adversary is None else layer_stats(adversary, edge.front_end.feature_shape)


def _try_defence(edge: EdgeModel) -> None:
    """Run the defence once on zeros, to refuse a wrong combination before training."""
    channels, height, width = edge.device_spec.image_shape
    x = torch.zeros(2, channels, height, width)
    parameters, statistics = edge.initial_weights()
    rng = torch_generator(0, "trial")
    weights = {**parameters, **statistics}
    z, released, pre_funnel = edge.features(weights, x, rng)
    batch = Batch(x, torch.zeros(2, dtype=torch.int64), z, released, pre_funnel)
    edge.defence.penalty(batch)
