"""Joint training of front-end, defence and cloud half on one pool of images.

The setting of the SiftFunnel paper (arXiv 2501.00824): the provider trains both halves before they
are deployed. Every arm sees the same images in the same order with the same optimiser, that of the
paper's code at the learning rate that is stable here; nothing is selected, the last epoch counts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from clients.deployed import DeployedFrontEnd
from clients.device_spec import DeviceSpec, deployable, initialise
from frontier.arms import ComparedArm
from server.edge_interface import ProviderTier
from server.entry_layers import TieredCloudModel
from server.joint_step import JointStep
from testbed.core.layers import set_statistics_momentum
from testbed.core.registries import CLOUD_MODELS
from testbed.core.seeds import generator, global_stream, torch_generator
from testbed.scenario.training import (
    EdgeOptimiserSection,
    ProviderOptimiserSection,
    ProviderSection,
)

MOMENTUM = 0.1  # of batch norm's running statistics once ten batches were seen


@dataclass(frozen=True)
class Budget:
    """What every arm may spend on training."""

    images: int
    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.001


@dataclass(frozen=True)
class TrainedArm:
    """Both trained halves of an arm."""

    deployed: DeployedFrontEnd
    cloud: TieredCloudModel


def channel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of images (N, C, H, W), in [0, 1]."""
    channels = images.shape[1]
    flat = images.transpose(1, 0, 2, 3).reshape(channels, -1) / 255.0
    return tuple(map(float, flat.mean(axis=1))), tuple(map(float, flat.std(axis=1)))


def train(
    arm: ComparedArm,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    num_classes: int,
    budget: Budget,
    seed: int,
    progress: Callable[[str], None] | None = None,
) -> TrainedArm:
    """Train an arm for the whole budget; the last epoch is what is deployed."""
    mean, std = channel_statistics(images)
    channels, height, width = images.shape[1:]
    device_spec = DeviceSpec(
        arm=arm.text,
        seed=seed,
        front_end=arm.front_end,
        defence=arm.defence,
        image_shape=(channels, height, width),
        num_classes=num_classes,
        channel_mean=mean,
        channel_std=std,
        batch_size=budget.batch_size,
        optimiser=EdgeOptimiserSection(),
    )
    edge = device_spec.build()
    name, options = edge.front_end.cloud_model
    shape = edge.front_end.feature_shape
    trunk = CLOUD_MODELS.create(name, options, feature_shape=shape, num_classes=num_classes)
    cloud = TieredCloudModel(trunk, [shape], num_classes)
    initialise(cloud, torch_generator(seed, "cloud weights"))
    for half in (edge.front_end, cloud):
        half.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    section = ProviderSection(
        optimiser=ProviderOptimiserSection(learning_rate=budget.learning_rate)
    )
    joint = JointStep(section, [ProviderTier(edge)], cloud, torch.device("cpu"))
    step = 0
    with global_stream(torch_generator(seed, "dropout")):
        for epoch in range(budget.epochs):
            order = generator(seed, "joint batches", epoch).permutation(len(images))
            edge.front_end.train()
            cloud.train()
            figures = []
            for start in range(0, len(order) - budget.batch_size + 1, budget.batch_size):
                rows = order[start : start + budget.batch_size]
                x = torch.from_numpy(images[rows]).float().div_(255.0)
                for half in (edge.front_end, cloud):
                    set_statistics_momentum(half, max(MOMENTUM, 1.0 / (step + 1)))
                release = torch_generator(seed, "joint release", step)
                figures.append(joint.step(x, torch.from_numpy(labels[rows]), release))
                step += 1
            if progress is not None:
                task, penalty, correct = torch.stack(figures).mean(dim=0).tolist()
                progress(
                    f"epoch {epoch + 1}: task {task:.3f}, penalty {penalty:.3f}, "
                    f"training accuracy {correct:.3f}"
                )
    weights = {key: value.detach().contiguous() for key, value in edge.own_weights().items()}
    parameters = deployable({key: weights[key] for key in edge.own_parameters()})
    deployed = DeployedFrontEnd(
        device_spec,
        {key: value.numpy() for key, value in parameters.items()},
        {key: value.numpy() for key, value in weights.items() if key not in edge.own_parameters()},
    )
    return TrainedArm(deployed, cloud.eval())


@torch.no_grad()
def accuracy(
    arm: TrainedArm, images: NDArray[np.float32], labels: NDArray[np.int64], draw: int = 0
) -> float:
    """Return the share of images in [0, 1] whose released features are classified correctly."""
    features = torch.from_numpy(arm.deployed.query(images, draw))
    parts = [
        arm.cloud(part.contiguous(memory_format=torch.channels_last), 0).argmax(dim=1)
        for part in torch.split(features, 64)
    ]
    return float((torch.cat(parts).numpy() == labels).mean())
