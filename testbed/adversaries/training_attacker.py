"""Base of attacks that learn at the cloud during split training: networks and their state.

A training attacker is built from what its threat model grants (auxiliary images, the architecture
of the front-end) and sees only what the protocol sends to the cloud. Its networks are kept in
checkpoints. Only its decoder's weights go to the adversary's process when victims are attacked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from testbed.adversaries.base import (
    Attack,
    Evidence,
    FloatArray,
    LabelledImages,
    Reconstruction,
    Report,
)
from testbed.adversaries.decoder_network import CAPACITIES, Capacity, DecoderNetwork
from testbed.adversaries.effort import Effort
from testbed.adversaries.mean_image import mean_of, repeated
from testbed.adversaries.released import ChannelNormaliser
from testbed.adversaries.shadow_front_end import ShadowFrontEnd
from testbed.core import seeds
from testbed.core.compute import as_array, compute_device, on_device
from testbed.core.errors import UserError
from testbed.core.state_dicts import below, load_optimiser, optimiser_tensors, under
from testbed.scenario.components import Component

Shape = tuple[int, int, int]
Classify = Callable[[Tensor], Tensor]
"""The current cloud model: features to logits, with gradients to the features."""

_CHUNK = 64
DECODER, SCALE = "decoder", "scale"


@dataclass(frozen=True)
class TrainingView:
    """The knowledge that a training attacker starts with."""

    num_classes: int
    auxiliary: LabelledImages
    architecture: Component
    feature_shape: Shape


@dataclass(frozen=True)
class WatchedStep:
    """One tier's part of a training step, as the cloud sees it.

    Attributes
    ----------
    features, targets, gradients : per device, as in ``server.training_step.TrainingStep``.
    """

    features: Sequence[Tensor]
    targets: Sequence[Tensor]
    gradients: Sequence[Tensor]
    classify: Classify

    def received(self) -> tuple[Tensor, Tensor]:
        """Return all features (n, C, H, W) without their graph, and their classes one-hot."""
        targets = torch.cat(list(self.targets))
        labels = nn.functional.one_hot(targets.argmax(dim=1), targets.shape[1]).float()
        return torch.cat([z.detach() for z in self.features]), labels


class FeatureScale(nn.Module):
    """Scales every live channel to unit variance between samples, by running statistics.

    Like ``ChannelNormaliser``, for features that change during the training: channels that do not
    vary between samples become zero, outliers are clamped.
    """

    MOMENTUM, DEAD_SHARE, LARGEST = 0.1, 1e-5, 50.0
    centre: Tensor
    variance: Tensor
    power: Tensor
    batches: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("centre", "variance", "power"):
            self.register_buffer(name, torch.zeros(channels))
        self.register_buffer("batches", torch.zeros(()))

    @torch.no_grad()
    def update(self, z: Tensor) -> None:
        """Include the statistics of features (N, C, H, W): first a mean, then a moving average."""
        weight = max(self.MOMENTUM, 1.0 / (float(self.batches) + 1.0))
        self.batches += 1.0
        variance = (z - z.mean(dim=0)).square().mean(dim=(0, 2, 3))
        self.centre.lerp_(z.mean(dim=(0, 2, 3)), weight)
        self.variance.lerp_(variance, weight)
        self.power.lerp_(z.square().mean(dim=(0, 2, 3)), weight)

    def forward(self, z: Tensor) -> Tensor:
        """Scale features (N, C, H, W); NaN carries no information and becomes 0."""
        live = self.variance > self.DEAD_SHARE**2 * self.power
        scale = torch.where(live, self.variance.clamp_min(1e-30).rsqrt(), 0.0)
        scaled = (z - self.centre[:, None, None]) * scale[:, None, None]
        return scaled.nan_to_num(0.0).clamp(-self.LARGEST, self.LARGEST)


class TrainingAttacker:
    """What an attack learns from one tier's training: networks, their optimisers, their state.

    Parameters
    ----------
    options : of the attack; ``capacity`` is the decoder's.
    name : of the attack; part of its random streams.

    Attributes
    ----------
    networks : all networks by name, among them a decoder and a feature scale.
    """

    def __init__(self, options: Any, view: TrainingView, seed: int, name: str) -> None:
        self.options, self.view = options, view
        self.seed, self.name = seed, name
        self.steps = 0
        self.networks = nn.ModuleDict({SCALE: FeatureScale(view.feature_shape[0])})
        self.networks.to(compute_device())
        self.networks[DECODER] = build_decoder(view, options.capacity, self.rng("decoder"))
        self.optimisers: dict[str, torch.optim.Adam] = {}
        self.mean = on_device(mean_of(view.auxiliary))

    def watch(self, step: WatchedStep) -> Sequence[Tensor] | None:
        """Learn from a step; return the gradients to send to the devices instead, or None."""
        raise NotImplementedError

    def rng(self, purpose: str, *numbers: int) -> torch.Generator:
        """Return the random stream of a purpose, and of numbers such as the step."""
        return seeds.torch_generator(self.seed, f"{self.name} {purpose}", *numbers)

    def add_front_end(self, name: str) -> None:
        """Add a shadow front-end of the known architecture."""
        self.networks[name] = ShadowFrontEnd(
            self.view.architecture, self.view.auxiliary.images, self.seed, f"{self.name} {name}"
        )

    def train_with(self, name: str, learning_rate: float) -> None:
        """Give one network an optimiser."""
        parameters = self.networks[name].parameters()
        self.optimisers[name] = torch.optim.Adam(parameters, learning_rate)

    def descend(self, name: str, loss: Tensor, retain_graph: bool = False) -> None:
        """Move one network against the gradient of a loss; no other network changes."""
        leaves = list(self.networks[name].parameters())
        gradients = torch.autograd.grad(loss, leaves, retain_graph=retain_graph, allow_unused=True)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient
        self.optimisers[name].step()

    def auxiliary_batch(self, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw images in [0, 1] (n, C, H, W) and their one-hot classes (n, K)."""
        auxiliary = self.view.auxiliary
        chosen = torch.randperm(len(auxiliary.labels), generator=rng)[:size].numpy()
        labels = on_device(auxiliary.labels[chosen])
        one_hot = nn.functional.one_hot(labels, self.view.num_classes).float()
        return on_device(auxiliary.images[chosen]), one_hot

    def decoded(self, z: Tensor) -> Tensor:
        """Return images of features (N, C, H, W), not clamped, with gradients."""
        images: Tensor = self.mean + self.networks[DECODER](self.networks[SCALE](z))
        return images

    def memory(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights of decoder and scale by name, which decode the victims' features."""
        return {
            f"{name}.{key}": as_array(value).copy()
            for name in (DECODER, SCALE)
            for key, value in self.networks[name].state_dict().items()
        }

    def state(self) -> dict[str, Tensor]:
        """Return all networks and optimisers, as flat tensors for a checkpoint."""
        tensors = under("network.", self.networks.state_dict())
        for name, optimiser in self.optimisers.items():
            tensors |= under(f"optimiser.{name}.", optimiser_tensors(optimiser))
        return {**tensors, "steps": torch.tensor(self.steps)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned."""
        self.steps = int(tensors["steps"])
        self.networks.load_state_dict(below("network.", tensors))
        for name, optimiser in self.optimisers.items():
            load_optimiser(optimiser, below(f"optimiser.{name}.", tensors))


def build_decoder(view: TrainingView, capacity: Capacity, rng: torch.Generator) -> DecoderNetwork:
    """Return a residual decoder's network, for the view's features and images."""
    channels, height, width = view.auxiliary.images.shape[1:]
    size = CAPACITIES[capacity]
    return DecoderNetwork(view.feature_shape, (channels, height, width), size, rng)


def _vary(features: FloatArray) -> bool:
    """Return whether any channel differs between intercepts."""
    finite = np.where(np.isfinite(features), features, np.float32(0.0))
    return bool(ChannelNormaliser.fit(finite).scale.any())


class TrainingAttack(Attack):
    """Base of the attacks: a training attacker for every tier, and the decoding afterwards."""

    name: ClassVar[str]
    attacker: ClassVar[type[TrainingAttacker]]

    def training_attacker(self, view: TrainingView, seed: int) -> TrainingAttacker:
        """Return the attacker on the training of one tier."""
        return self.attacker(self.options, view, seed, self.name)

    def mount(self, evidence: Evidence, seed: int, report: Report) -> Reconstruction:
        """Decode the intercepts with the decoder that was trained beside the fleet.

        Raises
        ------
        UserError : the adversary was not at the cloud during the training.
        """
        return _decode_intercepts(evidence, self.name, self.options.capacity)

    def effort(self, evidence: Evidence, intercepts: int) -> list[Effort]:
        """Return nothing: decoding is short, and the training is counted with the fleet's."""
        return []

    def training_effort(self, view: TrainingView, step: WatchedStep, steps: int) -> list[Effort]:
        """Return what it computes in ``steps`` steps of the fleet like the given one."""
        options = self.options.model_copy(update={"updates_per_step": 1})
        attacker = self.attacker(options, view, 0, self.name)
        updates = steps * self.options.updates_per_step
        return [Effort(updates, f"{options!r}", lambda: attacker.watch(step), of_arm=True)]


def _decode_intercepts(evidence: Evidence, attack: str, capacity: Capacity) -> Reconstruction:
    if evidence.trained is None or evidence.architecture is None:
        raise UserError(
            f"attack '{attack}' needs a position at the cloud during the training, and the "
            "architecture of the front-end"
        )
    channels, height, width = evidence.intercepts.features.shape[1:]
    shape = (channels, height, width)
    view = TrainingView(evidence.num_classes, evidence.auxiliary, evidence.architecture, shape)
    unused = seeds.torch_generator(0, "replaced weights")
    decoder = build_decoder(view, capacity, unused)
    scale = FeatureScale(channels).to(compute_device())
    for name, network in ((DECODER, decoder), (SCALE, scale)):
        weights = below(f"{name}.", evidence.trained)
        network.load_state_dict(
            {key: torch.from_numpy(np.array(value)) for key, value in weights.items()}
        )
    mean = on_device(mean_of(evidence.auxiliary))

    @torch.no_grad()
    def reconstruct(features: FloatArray) -> FloatArray:
        if len(features) == 0:
            return np.empty((0, *mean.shape), dtype=np.float32)
        if len(features) > 1 and not _vary(features):  # constant features carry no information
            return repeated(as_array(mean), len(features))
        parts = torch.split(torch.from_numpy(np.array(features)), _CHUNK)
        images: FloatArray = (
            torch.cat([(mean + decoder(scale(on_device(part)))).cpu() for part in parts])
            .clamp_(0.0, 1.0)
            .contiguous()
            .numpy()
        )
        return images

    return Reconstruction(
        reconstruct(evidence.intercepts.features),
        body_parameters=decoder.body_parameters(),
        adapter_parameters=decoder.adapter_parameters(),
        again=reconstruct,
    )
