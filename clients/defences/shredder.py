"""Shredder: additive noise whose distribution is learned (Mireshghallah et al., ASPLOS 2020).

    L = CE - weight * mean|n|,   n = location + scale * Laplace(0, 1), both learned per feature

(arXiv 1905.11814: the noise is a trainable tensor that starts as a Laplace sample, and the loss
rewards its magnitude.) The reward stops at ``target``, since the noise would otherwise grow without
bound; the paper lowers its weight instead. Two things differ. The paper trains many noise tensors
and fits a distribution to them; here the distribution itself is trained (reparameterisation). And
the front-end is not frozen but trained too, so its features are bounded
(``clients.defences.noise``). Fresh noise is drawn for every image.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from clients.defences.base import Batch, Defence, Shape
from clients.defences.noise import bound_power, signal_to_noise_db, standard_laplace
from testbed.core.registries import DEFENCES
from testbed.core.registry import Options, Positive


class ShredderOptions(Options):
    """Weight and end of the reward, and the initial noise."""

    weight: Positive = Field(default=1.0, description="weight of the mean magnitude of the noise")
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


@DEFENCES.register(
    "shredder",
    "additive noise whose distribution is learned with the front-end",
    ShredderOptions,
    source="Mireshghallah et al. 2020, arXiv 1905.11814",
)
class Shredder(Defence):
    """Adds learned noise to bounded features."""

    release_layers: _Noise

    options: ShredderOptions

    def build(self, image_shape: Shape, feature_shape: Shape, num_classes: int) -> None:
        """Build the distribution of the noise."""
        self.release_layers = _Noise(feature_shape, self.options.initial_scale)

    def penalty(self, batch: Batch) -> Tensor | None:
        """Return -weight * mean|n| of the drawn noise, up to the target."""
        noise = batch.released - bound_power(batch.z, self.options.bound)
        return -self.options.weight * noise.abs().mean().clamp_max(self.options.target)

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return the bounded features plus a fresh draw of the learned noise."""
        noise: Tensor = self.release_layers(standard_laplace(z, rng))
        return bound_power(z, self.options.bound) + noise

    def signal(self, z: Tensor) -> Tensor:
        """Return the bounded features in units of the noise's scale."""
        return bound_power(z, self.options.bound) / self.release_layers.log_scale.exp()

    def equivalent_noise_std(self) -> float:
        """Return 1, in units of the scale; the location is the same for all images."""
        return 1.0

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return the signal-to-noise ratio, without the location: it is the same for all images."""
        variance = 2.0 * float((2.0 * self.release_layers.log_scale.detach()).exp().mean())
        return {"snr_db": signal_to_noise_db(bound_power(z, self.options.bound), variance)}
