"""What accompanies a split training at the cloud and learns from it: networks with their state.

A companion is built from what its threat model grants (auxiliary images, the architecture of the
front-end) and is shown what the protocol sends to the cloud anyway. What it has learned is kept in
checkpoints, and is all that goes to the adversary's process when victims are attacked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from testbed.adversaries.base import Evidence, FloatArray, LabelledImages, Reconstruction
from testbed.adversaries.decoder_network import CAPACITIES, DecoderNetwork
from testbed.adversaries.mean_image import mean_of
from testbed.adversaries.released import ChannelNormaliser
from testbed.core import seeds
from testbed.core.errors import UserError
from testbed.core.registries import FRONT_ENDS
from testbed.core.state_dicts import below, load_optimiser, optimiser_tensors, under
from testbed.scenario.components import Component

Shape = tuple[int, int, int]
Classify = Callable[[Tensor], Tensor]
"""The cloud model as it is now: features to logits, with gradients to the features."""

_CHUNK = 64
DECODER, SCALE = "decoder", "scale"


@dataclass(frozen=True)
class TrainingView:
    """What a companion is built from; the rest it is shown step by step."""

    num_classes: int
    auxiliary: LabelledImages
    architecture: Component
    feature_shape: Shape


class FeatureScale(nn.Module):
    """Gives every live channel unit variance between samples, by running statistics.

    Like ``ChannelNormaliser``, for features that change while the fleet trains: channels that do
    not vary between samples become zero, outliers are clamped.
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
        """Blend the statistics of features (N, C, H, W) in; a mean over batches, then moving."""
        weight = max(self.MOMENTUM, 1.0 / (float(self.batches) + 1.0))
        self.batches += 1.0
        apart = (z - z.mean(dim=0)).square().mean(dim=(0, 2, 3))
        self.centre.lerp_(z.mean(dim=(0, 2, 3)), weight)
        self.variance.lerp_(apart, weight)
        self.power.lerp_(z.square().mean(dim=(0, 2, 3)), weight)

    def forward(self, z: Tensor) -> Tensor:
        """Scale features (N, C, H, W); what is no number carries no information and becomes 0."""
        live = self.variance > self.DEAD_SHARE**2 * self.power
        scale = torch.where(live, self.variance.clamp_min(1e-30).rsqrt(), 0.0)
        scaled = (z - self.centre[:, None, None]) * scale[:, None, None]
        return scaled.nan_to_num(0.0).clamp(-self.LARGEST, self.LARGEST)


class TrainingAttacker:
    """Base of the companions: networks, one Adam for each that is trained, and their state.

    Attributes
    ----------
    networks : all networks by name; a decoder and a feature scale are always among them.
    """

    def __init__(self, view: TrainingView, capacity: str, seed: int, name: str) -> None:
        self.view = view
        self.seed, self.name = seed, name
        self.steps = 0
        self.networks = nn.ModuleDict({SCALE: FeatureScale(view.feature_shape[0])})
        self.networks[DECODER] = build_decoder(view, capacity, self.rng("decoder"))
        self.optimisers: dict[str, torch.optim.Adam] = {}
        self.mean = torch.from_numpy(mean_of(view.auxiliary))
        images = view.auxiliary.images
        self._centre = torch.from_numpy(images.mean(axis=(0, 2, 3), keepdims=True))
        deviation = np.maximum(images.std(axis=(0, 2, 3), keepdims=True), np.float32(1e-3))
        self._deviation = torch.from_numpy(deviation)

    def watch(
        self,
        features: Sequence[Tensor],
        targets: Sequence[Tensor],
        gradients: Sequence[Tensor],
        classify: Classify,
    ) -> Sequence[Tensor] | None:
        """Learn from a step; return the devices' gradients to send instead, or None.

        Parameters
        ----------
        features, targets, gradients : per device, as in ``TrainingStep``.
        """
        raise NotImplementedError

    def rng(self, purpose: str, *numbers: int) -> torch.Generator:
        """Return the random stream of a purpose and, say, a step."""
        return seeds.torch_generator(self.seed, f"{self.name} {purpose}", *numbers)

    def add_front_end(self, name: str) -> nn.Module:
        """Build a front-end of the attacker's own, of the known architecture."""
        architecture = self.view.architecture
        draw = int(seeds.generator(self.seed, f"{self.name} {name}").integers(2**31))
        with torch.random.fork_rng(devices=[]):  # layers draw from the global state
            torch.manual_seed(draw)
            shape = self.view.auxiliary.images.shape[1:]
            front_end: nn.Module = FRONT_ENDS.create(
                architecture.name, architecture.options, image_shape=shape
            )
        self.networks[name] = front_end
        return front_end

    def train_with(self, name: str, learning_rate: float) -> None:
        """Give one network an optimiser."""
        parameters = self.networks[name].parameters()
        self.optimisers[name] = torch.optim.Adam(parameters, learning_rate)

    def descend(self, name: str, loss: Tensor, retain_graph: bool = False) -> None:
        """Move one network against the gradient of a loss; no other network is touched."""
        own = list(self.networks[name].parameters())
        found = torch.autograd.grad(loss, own, retain_graph=retain_graph, allow_unused=True)
        for parameter, gradient in zip(own, found, strict=True):
            parameter.grad = gradient
        self.optimisers[name].step()

    def auxiliary_batch(self, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw images in [0, 1] (n, C, H, W) and their one-hot classes (n, K)."""
        auxiliary = self.view.auxiliary
        chosen = torch.randperm(len(auxiliary.labels), generator=rng)[:size].numpy()
        labels = torch.from_numpy(auxiliary.labels[chosen])
        one_hot = nn.functional.one_hot(labels, self.view.num_classes).float()
        return torch.from_numpy(auxiliary.images[chosen]), one_hot

    def received(
        self, features: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return a step's features (n, C, H, W) without their graph, and their classes one-hot."""
        classes = torch.cat(list(targets)).argmax(dim=1)
        labels = nn.functional.one_hot(classes, self.view.num_classes).float()
        return torch.cat([z.detach() for z in features]), labels

    def normalised(self, x: Tensor) -> Tensor:
        """Return images as the attacker's own front-end gets them, by its own statistics."""
        return (x - self._centre) / self._deviation

    def decoded(self, z: Tensor) -> Tensor:
        """Return images of features (N, C, H, W), not clamped, with gradients."""
        images: Tensor = self.mean + self.networks[DECODER](self.networks[SCALE](z))
        return images

    def memory(self) -> dict[str, NDArray[np.float32]]:
        """Return what decoding needs: the weights of decoder and scale."""
        return {
            f"{name}.{key}": value.detach().numpy().copy()
            for name in (DECODER, SCALE)
            for key, value in self.networks[name].state_dict().items()
        }

    def state(self) -> dict[str, Tensor]:
        """Return everything that it has learned, as flat tensors for a checkpoint."""
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


def build_decoder(
    view: TrainingView, capacity: str, rng: torch.Generator | None = None
) -> DecoderNetwork:
    """Return a decoder of the residual decoder's kind, for the view's features and images."""
    channels, height, width = view.auxiliary.images.shape[1:]
    rng = torch.Generator().manual_seed(0) if rng is None else rng
    size = CAPACITIES[capacity]
    return DecoderNetwork(view.feature_shape, (channels, height, width), size, rng)


def _vary(features: FloatArray) -> bool:
    """Say whether any channel differs between intercepts."""
    finite = np.where(np.isfinite(features), features, np.float32(0.0))
    return bool(ChannelNormaliser.fit(finite).scale.any())


def decode_intercepts(evidence: Evidence, attack: str, capacity: str) -> Reconstruction:
    """Decode the intercepts with what a companion has learned.

    Raises
    ------
    UserError : the adversary was not there while the fleet trained.
    """
    if evidence.trained is None or evidence.architecture is None:
        raise UserError(
            f"attack '{attack}' needs to have been at the cloud while the fleet trained, and to "
            "know the architecture of the front-end"
        )
    channels, height, width = evidence.intercepts.features.shape[1:]
    shape = (channels, height, width)
    view = TrainingView(evidence.num_classes, evidence.auxiliary, evidence.architecture, shape)
    decoder, scale = build_decoder(view, capacity), FeatureScale(channels)
    for name, network in ((DECODER, decoder), (SCALE, scale)):
        weights = below(f"{name}.", evidence.trained)
        network.load_state_dict(
            {key: torch.from_numpy(np.array(value)) for key, value in weights.items()}
        )
    mean = torch.from_numpy(mean_of(evidence.auxiliary))

    @torch.no_grad()
    def reconstruct(features: FloatArray) -> FloatArray:
        if len(features) == 0:
            return np.empty((0, *mean.shape), dtype=np.float32)
        if len(features) > 1 and not _vary(features):  # then they say nothing, whatever they are
            return np.broadcast_to(mean.numpy(), (len(features), *mean.shape)).copy()
        parts = torch.split(torch.from_numpy(np.array(features)), _CHUNK)
        images: FloatArray = (
            torch.cat([mean + decoder(scale(part)) for part in parts])
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
