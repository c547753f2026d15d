"""Shredder: additive noise whose distribution is learned (Mireshghallah et al., ASPLOS 2020).

    L = CE - weight * mean|n|,   n = location + scale * Laplace(0, 1), both learned per feature

(arXiv 1905.11814: the noise is a trainable tensor that starts as a Laplace sample, and the loss
rewards its magnitude.) The reward ends at ``target``, as the paper lowers its weight once there is
as much noise as wanted; without an end the noise would grow without bound. Two things differ: the
paper trains many noise tensors and fits a distribution to them, here the distribution itself is
trained (the reparameterisation), and the front-end is not frozen but trained along, so its features
are bounded (``clients.defences.bounded_noise``). Fresh noise is drawn for every image.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from clients.defences.base import Batch, Defence, Shape
from clients.defences.bounded_noise import bound_power, signal_to_noise_db
from testbed.core.registries import DEFENCES
from testbed.core.registry import Options

Positive = Annotated[float, Field(gt=0.0)]


class ShredderOptions(Options):
    """How strongly noise is rewarded, and up to what size."""

    weight: Positive = Field(default=1.0, description="of the mean magnitude of the noise")
    target: Positive = Field(default=2.0, description="mean |noise| up to which it is rewarded")
    initial_scale: Positive = Field(default=0.5, description="scale of the noise before training")
    bound: Positive = Field(default=1.0, description="largest root mean square of an image's z")


class _Noise(nn.Module):
    """Location and scale of the noise on every feature."""

    def __init__(self, feature_shape: Shape, initial_scale: float) -> None:
        super().__init__()
        self.location = nn.Parameter(torch.empty(feature_shape))
        self.log_scale = nn.Parameter(torch.empty(feature_shape))
        self.initial_scale = initial_scale
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with a Laplace sample for the location, as the paper's noise tensor does."""
        with torch.no_grad():
            first, second = (torch.empty_like(self.location).exponential_() for _ in range(2))
            self.location.copy_(self.initial_scale * (first - second))
            self.log_scale.fill_(float(torch.tensor(self.initial_scale).log()))

    def forward(self, standard: Tensor) -> Tensor:
        return self.location + self.log_scale.exp() * standard


class Shredder(Defence):
    """Adds learned noise to bounded features; see the module's formula."""

    release_layers: _Noise

    def __init__(self, options: ShredderOptions) -> None:
        self.options = options

    def build(self, image_shape: Shape, feature_shape: Shape, num_classes: int) -> None:
        """Build the distribution of the noise."""
        self.release_layers = _Noise(feature_shape, self.options.initial_scale)

    def penalty(self, batch: Batch) -> Tensor | None:
        """Return -weight * mean|n|, of the noise that was drawn, up to the target."""
        noise = batch.released - bound_power(batch.z, self.options.bound)
        return -self.options.weight * noise.abs().mean().clamp_max(self.options.target)

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return the bounded features plus a fresh draw of the learned noise."""
        first = torch.empty(z.shape, device=rng.device).exponential_(generator=rng)
        second = torch.empty(z.shape, device=rng.device).exponential_(generator=rng)
        standard = (first - second).to(device=z.device, dtype=z.dtype)
        noise: Tensor = self.release_layers(standard)
        return bound_power(z, self.options.bound) + noise

    def signal(self, z: Tensor) -> Tensor:
        """Return the bounded features in units of the scale of their noise."""
        return bound_power(z, self.options.bound) / self.release_layers.log_scale.exp()

    def equivalent_noise_std(self) -> float:
        """Return 1, in those units: the location tells nothing, it is the same for all images."""
        return 1.0

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return signal over noise; the location is the same for all images and hides nothing."""
        variance = 2.0 * float((2.0 * self.release_layers.log_scale.detach()).exp().mean())
        return {"snr_db": signal_to_noise_db(bound_power(z, self.options.bound), variance)}


@DEFENCES.register(
    "shredder",
    "additive noise whose distribution is learned with the front-end",
    ShredderOptions,
    source="Mireshghallah et al. 2020, arXiv 1905.11814",
)
def shredder(options: ShredderOptions) -> Defence:
    """Build the defence with learned noise."""
    return Shredder(options)
