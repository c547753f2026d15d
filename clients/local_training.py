"""One device's training within one round: forward steps, backward steps, in-place updates.

The device keeps nothing between rounds. Adam's moments therefore travel with the weights, and the
server averages both. Momentum of SGD stays on the device and starts at zero every round.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.defences.base import Batch
from clients.device_spec import ADVERSARY, EdgeModel, compute_layout, deployable
from testbed.core.compute import on_device
from testbed.core.plain_torch import weighted_gradients
from testbed.core.seeds import generator, torch_generator
from testbed.core.state_dicts import below, under
from testbed.wire.protocol import FIRST_MOMENT, SECOND_MOMENT

ADVERSARY_BETAS = (0.9, 0.999)  # Adam's own defaults
VELOCITY = "velocity."


@dataclass
class _Graph:
    """The state of a forward step that its backward step needs."""

    step: int
    batch: Batch


def batch_places(
    seed: int, at: tuple[int, int, int], images: int, batch_size: int
) -> NDArray[np.int64]:
    """Return which of a device's images are in a step's batch, from successive shuffles of them.

    Parameters
    ----------
    at : device, round and step.
    images : how many the device has.
    """
    device, server_round, step = at
    size = min(batch_size, images)
    per_pass = images // size
    order = generator(seed, "batches", device, server_round, step // per_pass).permutation(images)
    start = (step % per_pass) * size
    return order[start : start + size]


class LocalTraining:
    """The training of one device in one round.

    Parameters
    ----------
    model : front-end and defence, shared with the other devices of the process.
    images, labels : this device's data, uint8 (n, C, H, W) and int64 (n,).
    parameters, statistics : weights at the start of the round; copied.
    proximal_mu : weight of FedProx's term mu/2 |w - w_0|^2 (arXiv 1812.06127, eq. 2).
    moments : Adam's moments at the start of the round; copied.
    steps_before : steps of earlier rounds that are in ``moments``.

    Attributes
    ----------
    moments : of all optimisers, by kind and name of the weight.
    """

    def __init__(
        self,
        model: EdgeModel,
        device: int,
        server_round: int,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        parameters: Mapping[str, Tensor],
        statistics: Mapping[str, Tensor],
        proximal_mu: float = 0.0,
        moments: Mapping[str, Tensor] | None = None,
        steps_before: int = 0,
    ) -> None:
        self._model = model
        self._device = device
        self._round = server_round
        self._images = images
        self._labels = labels
        self.parameters = {
            name: compute_layout(value).requires_grad_() for name, value in parameters.items()
        }
        self.statistics = {name: compute_layout(value) for name, value in statistics.items()}
        self.moments = {name: compute_layout(value) for name, value in (moments or {}).items()}
        self.steps_before = steps_before
        self.proximal_mu = proximal_mu
        self.anchor = (
            {name: value.detach().clone() for name, value in self.parameters.items()}
            if proximal_mu
            else {}
        )
        self._statistics_before = self.statistics
        self._graph: _Graph | None = None

    @property
    def num_images(self) -> int:
        """Return how many training images the device holds."""
        return len(self._images)

    @property
    def kept_images(self) -> int:
        """Return the images whose activations of a forward step are in memory."""
        return 0 if self._graph is None else len(self._graph.batch.labels)

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return images in [0, 1] and labels of a step."""
        device_spec = self._model.device_spec
        chosen = batch_places(
            device_spec.seed,
            (self._device, self._round, step),
            len(self._images),
            device_spec.batch_size,
        )
        x = on_device(self._images[chosen]).float().div_(255.0)
        return x, on_device(self._labels[chosen])

    def forward(self, step: int) -> tuple[Tensor, Tensor]:
        """Run the front-end on the step's batch.

        Returns
        -------
        Released features (n, C', H', W') and the targets (n, K) that travel with them.
        """
        x, labels = self._batch(step)
        self._statistics_before = {name: value.clone() for name, value in self.statistics.items()}
        device_spec = self._model.device_spec
        rng = torch_generator(device_spec.seed, "release", self._device, self._round, step)
        z, released, pre_funnel = self._model.features(
            {**self.parameters, **self.statistics}, x, rng, training_step=step
        )
        self._graph = _Graph(step, Batch(x, labels, z, released, pre_funnel))
        return released.detach(), self._model.defence.targets(labels, device_spec.num_classes)

    def drop_graph(self) -> None:
        """Free the forward step's activations; ``backward`` repeats the step with equal bits."""
        self._graph = None
        self.statistics = self._statistics_before

    def backward(self, step: int, gradient: Tensor, learning_rate_scale: float = 1.0) -> float:
        """Apply the cloud's gradient and the defence's own, and update the front-end.

        Parameters
        ----------
        gradient : d(mean task loss of this device's batch) / d(released features).
        learning_rate_scale : factor on the learning rate, from the server's schedule.

        Returns
        -------
        The value of the defence's penalty on this batch.
        """
        if self._graph is None or self._graph.step != step:
            self.forward(step)
        graph, self._graph = self._graph, None
        assert graph is not None
        batch, defence = graph.batch, self._model.defence
        weights = {**self.parameters, **self.statistics}
        penalty = self._model.with_weights(weights, lambda: defence.penalty(batch))
        outputs, seeds = [batch.released], [on_device(gradient) * defence.task_weight]
        if penalty is not None:
            outputs.append(penalty)
            seeds.append(torch.ones_like(penalty))
        leaves = list(deployable(self.parameters).values())
        gradients = weighted_gradients(outputs, leaves, seeds)
        # Both players are updated from the same weights.
        adversary = self._adversary_gradients(batch, weights)
        self._update(gradients, step, learning_rate_scale)
        self._update_adversary(adversary, step, learning_rate_scale)
        return 0.0 if penalty is None else float(penalty.detach())

    def travelling_moments(self) -> dict[str, Tensor]:
        """Return Adam's moments, which go to the server with the weights."""
        kinds = (FIRST_MOMENT, SECOND_MOMENT)
        return {name: value for name, value in self.moments.items() if name.startswith(kinds)}

    def _adversary_gradients(self, batch: Batch, weights: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the gradients of the defence's adversary, on detached features."""
        leaves = list(below(ADVERSARY, self.parameters).values())
        if not leaves:
            return []
        defence = self._model.defence
        detached = batch.without_gradients()
        loss = self._model.with_weights(weights, lambda: defence.adversary_loss(detached))
        return list(torch.autograd.grad(loss, leaves, materialize_grads=True))

    @torch.no_grad()
    def _update(self, gradients: list[Tensor], step: int, scale: float) -> None:
        """Take one step in place; a torch.optim object per device costs 2x."""
        options = self._model.device_spec.optimiser
        named = deployable(self.parameters)
        leaves = list(named.values())
        if options.clip_norm is not None:
            norm = torch.linalg.vector_norm(
                torch.stack([torch.linalg.vector_norm(value) for value in gradients])
            )
            torch._foreach_mul_(gradients, (options.clip_norm / (norm + 1e-6)).clamp_max(1.0))
        if self.proximal_mu:
            torch._foreach_add_(gradients, leaves, alpha=self.proximal_mu)
            anchors = list(deployable(self.anchor).values())
            torch._foreach_sub_(gradients, anchors, alpha=self.proximal_mu)
        if options.weight_decay:
            torch._foreach_add_(gradients, leaves, alpha=options.weight_decay)
        if options.method == "adam":
            betas = (options.momentum, options.second_beta)
            gradients = self._adam_direction(gradients, named, betas, step)
        elif options.method == "sign":
            gradients = [value.sign() for value in gradients]
        elif options.momentum:
            velocities = self._moment(VELOCITY, named)
            torch._foreach_mul_(velocities, options.momentum)
            torch._foreach_add_(velocities, gradients)
            gradients = velocities
        torch._foreach_add_(leaves, gradients, alpha=-options.learning_rate * scale)

    @torch.no_grad()
    def _update_adversary(self, gradients: list[Tensor], step: int, scale: float) -> None:
        """Take one step of Adam for the adversary's weights."""
        if not gradients:
            return
        leaves = below(ADVERSARY, self.parameters)
        named = under(ADVERSARY, leaves)
        directions = self._adam_direction(gradients, named, ADVERSARY_BETAS, step)
        for (name, leaf), direction in zip(leaves.items(), directions, strict=True):
            rate = self._model.defence.adversary_learning_rate(name)
            leaf.add_(direction, alpha=-rate * scale)

    def _adam_direction(
        self,
        gradients: list[Tensor],
        leaves: Mapping[str, Tensor],
        betas: tuple[float, float],
        step: int,
    ) -> list[Tensor]:
        """Update the moments, and return Adam's direction (arXiv 1412.6980, algorithm 1)."""
        first, second = self._moment(FIRST_MOMENT, leaves), self._moment(SECOND_MOMENT, leaves)
        steps = self.steps_before + step + 1
        torch._foreach_lerp_(first, gradients, 1.0 - betas[0])
        torch._foreach_mul_(second, betas[1])
        torch._foreach_addcmul_(second, gradients, gradients, 1.0 - betas[1])
        scale = torch._foreach_div(second, 1.0 - betas[1] ** steps)
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, 1e-8)
        direction = torch._foreach_div(first, 1.0 - betas[0] ** steps)
        torch._foreach_div_(direction, scale)
        return list(direction)

    def _moment(self, kind: str, leaves: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the moments of the weights, zero where none are known yet."""
        for name, leaf in leaves.items():
            if kind + name not in self.moments:
                self.moments[kind + name] = torch.zeros_like(leaf)
        return [self.moments[kind + name] for name in leaves]
