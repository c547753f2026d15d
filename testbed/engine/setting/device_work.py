"""The work of a device beside its front-end: release, encoding, penalty, adversary, optimiser."""

from dataclasses import dataclass

import torch
from torch import Tensor

from clients.defences.base import Batch
from clients.device_spec import EdgeModel, deployable
from testbed.core.gating import composed_layers
from testbed.core.seeds import torch_generator
from testbed.fleet.layer_stats import LayerStats
from testbed.fleet.operation_work import NO_WORK, Work, count_work, element_work
from testbed.scenario.training import ADAM_STATE_COPIES, EdgeOptimiserSection
from testbed.wire.encoding import FLOAT32


@dataclass(frozen=True)
class DeviceWork:
    """Counted work beside the front-end's passes.

    Attributes
    ----------
    release : of one image, in training and serving: noise or rounding, and encoding.
    step : of one batch in training: penalty and adversary, with their gradients.
    batch_size : images of that batch.
    """

    release: Work = NO_WORK
    step: Work = NO_WORK
    batch_size: int = 1


NOTHING_ELSE = DeviceWork()


def device_work(edge: EdgeModel, rounds: bool, trains: bool) -> DeviceWork:
    """Run the parts of a device's step beside its front-end once, and count their operations.

    Parameters
    ----------
    edge : in float32; its weights and random numbers do not matter.
    rounds : whether features are rounded to int8 where the defence does not do it.
    trains : whether devices train at all.

    Raises
    ------
    UserError : an operation cannot be counted; it names the defence.
    """
    spec = edge.device_spec
    name = f"defence '{spec.defence.name}'"
    parameters, statistics = edge.initial_weights()
    weights = {**parameters, **statistics}
    rng = torch_generator(0, "counted work")
    one = _batch(edge, weights, 1, rng)
    release = NO_WORK
    if edge.defence.release_layers is None and not edge.defence.changes_view:
        # Otherwise the release is among the layers that are counted as the front-end.
        release = count_work(
            name, lambda: edge.with_weights(weights, lambda: edge.defence.release(one.z, rng))
        )
    if edge.defence.wire != FLOAT32 or rounds:
        release += element_work(2 * one.released.numel())  # every feature is read and written
    if not trains:
        return DeviceWork(release)
    leaves = {key: value.requires_grad_() for key, value in parameters.items()}
    batch = _batch(edge, {**leaves, **statistics}, spec.batch_size, rng)
    step = _penalty_work(edge, leaves, batch, name)
    if edge.defence.adversary is not None:
        step += _adversary_work(edge, leaves, batch, name)
    return DeviceWork(release, step, spec.batch_size)


def optimiser_work(
    optimiser: EdgeOptimiserSection,
    stats: LayerStats,
    adversary: LayerStats | None,
    anchors: int = 0,
) -> Work:
    """Return the work of one update: weights, gradients and the optimiser's state are moved once.

    A weight and its gradient are read and the weight is written; each number of the state is read
    and written. Clipping reads the gradient twice and writes it.

    Parameters
    ----------
    anchors : weights of the round's start that are kept for each weight, and read.
    """
    moved = 3 + 2 * optimiser.state_copies + (3 if optimiser.clip_norm is not None else 0) + anchors
    of_adversary = (3 + 2 * ADAM_STATE_COPIES) * adversary.params if adversary else 0
    return element_work(moved * stats.params + of_adversary)


def _batch(edge: EdgeModel, weights: dict[str, Tensor], images: int, rng: torch.Generator) -> Batch:
    """Return a batch of random images after its forward pass, cut off from the front-end."""
    spec = edge.device_spec
    x = torch.rand(images, *spec.image_shape, generator=rng)
    training_step = 0 if images > 1 else None
    own = {key: value.detach().clone() for key, value in weights.items()}
    # The layout of the features decides on copies, which are counted.
    with torch.no_grad(), composed_layers():
        z, released, pre_funnel = edge.features(own, x, rng, training_step=training_step)
    labels = torch.arange(images) % spec.num_classes
    return Batch(x, labels, z, released, pre_funnel)


def _penalty_work(edge: EdgeModel, leaves: dict[str, Tensor], batch: Batch, name: str) -> Work:
    """Count the penalty of a batch and its gradient to the features and the release layers."""
    tensors = [batch.z, batch.released, batch.pre_funnel]
    features = [value.requires_grad_() for value in tensors if value is not None]
    inputs = [*features, *deployable(leaves).values()]

    def run() -> None:
        penalty = edge.with_weights(leaves, lambda: edge.defence.penalty(batch))
        if penalty is not None and penalty.requires_grad:
            torch.autograd.grad(penalty, inputs, allow_unused=True)

    return count_work(name, run)


def _adversary_work(edge: EdgeModel, leaves: dict[str, Tensor], batch: Batch, name: str) -> Work:
    """Count the loss of the adversary and its gradient to the adversary's weights."""
    own = [value for key, value in leaves.items() if key not in deployable(leaves)]
    detached = batch.without_gradients()

    def run() -> None:
        loss = edge.with_weights(leaves, lambda: edge.defence.adversary_loss(detached))
        torch.autograd.grad(loss, own, allow_unused=True)

    return count_work(name, run)
