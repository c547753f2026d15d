"""The two halves of an arm's model, built and measured together."""

from dataclasses import dataclass

import torch

from clients.defences.base import Batch
from clients.program import EdgeModel, EdgeProgram, initialise
from server.cloud_models.base import CloudModel
from testbed.core.errors import UserError
from testbed.core.registries import CLOUD_MODELS
from testbed.core.scenario import Arm, Scenario
from testbed.core.seeds import torch_generator
from testbed.fleet.layer_stats import LayerStats, layer_stats


@dataclass(frozen=True)
class ArmModels:
    """An arm's program, its untrained halves and their sizes."""

    program: EdgeProgram
    edge: EdgeModel
    cloud: CloudModel
    edge_stats: LayerStats
    cloud_stats: LayerStats


def build_models(
    scenario: Scenario,
    arm: Arm,
    image_shape: tuple[int, int, int],
    num_classes: int,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
) -> ArmModels:
    """Build both halves of an arm.

    Parameters
    ----------
    normalisation : mean and standard deviation per channel.

    Raises
    ------
    UserError : the front-end does not work at this image size or with this defence.
    """
    program = EdgeProgram(
        arm=arm.name,
        seed=scenario.seed,
        front_end=arm.front_end,
        defence=arm.defence,
        image_shape=image_shape,
        num_classes=num_classes,
        channel_mean=normalisation[0],
        channel_std=normalisation[1],
        batch_size=scenario.training.batch_size,
        optimiser=scenario.training.edge_optimiser,
    )
    try:
        edge = program.build()
        name, options = edge.front_end.cloud_model
        shape = edge.front_end.feature_shape
        cloud = CLOUD_MODELS.create(name, options, feature_shape=shape, num_classes=num_classes)
        initialise(cloud, torch_generator(scenario.seed, "cloud weights"))
        edge_stats = layer_stats(edge.on_device(), image_shape)
        cloud_stats = layer_stats(cloud, shape)
        _try_defence(edge)
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(
            f"arms.{arm.name}: front_end '{arm.front_end.name}' with defence "
            f"'{arm.defence.name}' does not work on images of {image_shape} ({error})"
        ) from None
    return ArmModels(program, edge, cloud, edge_stats, cloud_stats)


def _try_defence(edge: EdgeModel) -> None:
    """Run the defence once on zeros, so that a wrong combination is refused before training."""
    channels, height, width = edge.program.image_shape
    x = torch.zeros(2, channels, height, width)
    parameters, statistics = edge.initial_weights()
    rng = torch_generator(0, "trial")
    weights = {**parameters, **statistics}
    z, released, pre_funnel = edge.features(weights, x, rng)
    batch = Batch(x, torch.zeros(2, dtype=torch.int64), z, released, pre_funnel)
    edge.defence.penalty(batch)
