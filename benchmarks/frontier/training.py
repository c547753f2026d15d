"""Joint training of front-end, defence and cloud half on one pool of images.

The setting of the SiftFunnel paper (arXiv 2501.00824): the provider trains both halves before they
are deployed. Every arm sees the same images in the same order with the same optimiser.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from clients.defences.base import Batch
from clients.deployed import DeployedFrontEnd
from clients.program import EdgeProgram, compute_layout, initialise
from frontier.arms import ComparedArm
from server.cloud_models.base import CloudModel
from testbed.core.blocks import set_statistics_momentum
from testbed.core.registries import CLOUD_MODELS
from testbed.core.scenario import EdgeOptimiserSection
from testbed.core.seeds import generator, torch_generator

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
    cloud: CloudModel


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
    program = EdgeProgram(
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
    edge = program.build()
    name, options = edge.front_end.cloud_model
    cloud = CLOUD_MODELS.create(
        name, options, feature_shape=edge.front_end.feature_shape, num_classes=num_classes
    )
    initialise(cloud, torch_generator(seed, "cloud weights"))
    cloud = cloud.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    first, statistics = edge.initial_weights()
    parameters = {key: compute_layout(value).requires_grad_() for key, value in first.items()}
    # The optimiser of the paper's code, at the learning rate that is stable there.
    optimiser = torch.optim.Adam(
        [*parameters.values(), *cloud.parameters()],
        budget.learning_rate,
        betas=(0.5, 0.999),
        weight_decay=1e-3,
        amsgrad=True,
    )
    step = 0
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.set_state(torch_generator(seed, "dropout").get_state())
        for epoch in range(budget.epochs):
            order = generator(seed, "joint batches", epoch).permutation(len(images))
            losses = []
            cloud.train()
            for start in range(0, len(order) - budget.batch_size + 1, budget.batch_size):
                rows = order[start : start + budget.batch_size]
                x = torch.from_numpy(images[rows]).float().div_(255.0)
                set_statistics_momentum(cloud, max(MOMENTUM, 1.0 / (step + 1)))
                z, released, pre_funnel = edge.features(
                    {**parameters, **statistics},
                    x,
                    torch_generator(seed, "joint release", step),
                    training_step=min(step, round(1.0 / MOMENTUM) - 1),
                )
                batch = Batch(x, torch.from_numpy(labels[rows]), z, released, pre_funnel)
                wanted = edge.defence.targets(batch.labels, num_classes)
                task = _divergence(cloud(released), wanted)
                penalty = edge.with_weights(
                    {**parameters, **statistics}, partial(edge.defence.penalty, batch)
                )
                loss = edge.defence.task_weight * task + (0.0 if penalty is None else penalty)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                losses.append(
                    (float(task.detach()), 0.0 if penalty is None else float(penalty.detach()))
                )
                step += 1
            if progress is not None:
                mean_task, mean_penalty = np.mean(losses, axis=0)
                progress(f"epoch {epoch + 1}: task {mean_task:.3f} penalty {mean_penalty:.3f}")
    deployed = DeployedFrontEnd(
        program,
        {key: value.detach().contiguous().numpy() for key, value in parameters.items()},
        {key: value.numpy() for key, value in statistics.items()},
    )
    return TrainedArm(deployed, cloud.eval())


def _divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    return functional.kl_div(functional.log_softmax(logits, dim=1), wanted, reduction="batchmean")


@torch.no_grad()
def accuracy(
    arm: TrainedArm, images: NDArray[np.float32], labels: NDArray[np.int64], draw: int = 0
) -> float:
    """Return the share of images in [0, 1] whose released features are classified correctly."""
    features = torch.from_numpy(arm.deployed.query(images, draw))
    parts = [
        arm.cloud(part.contiguous(memory_format=torch.channels_last)).argmax(dim=1)
        for part in torch.split(features, 64)
    ]
    return float((torch.cat(parts).numpy() == labels).mean())
