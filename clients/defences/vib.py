"""Variational information bottleneck on the features (Alemi et al. 2017, arXiv 1612.00410, eq. 17).

    L = E_noise[-log q(y | z + noise)] + beta * KL(N(z, scale^2 I) || N(0, I))

The KL term bounds the mutual information of images and released features from above for any fixed
prior. The encoder's mean is z itself and its variance is an option, so the device has no further
layers; with both learned this is the defence ``mid``. The divergence is taken per feature, so that
beta means the same for every front-end; the paper's beta is this one divided by the number of
features.
"""

import math

import torch
from pydantic import Field
from torch import Tensor

from clients.defences.base import Batch, Defence
from clients.defences.noise import signal_to_noise_db, standard_normal
from testbed.core.registries import DEFENCES
from testbed.core.registry import Options, Positive


class VibOptions(Options):
    """Weight of the rate, and the encoder's noise."""

    beta: Positive = Field(default=0.1, description="weight of the rate in nats per feature")
    scale: Positive = Field(
        default=1.0, description="standard deviation of the encoder's noise; the prior's is 1"
    )


@DEFENCES.register(
    "vib",
    "Gaussian noise with a penalty on the information it transmits",
    VibOptions,
    source="Alemi et al. 2017, arXiv 1612.00410, eq. 17",
)
class Vib(Defence):
    """Adds Gaussian noise to the features and penalises the rate."""

    options: VibOptions

    def rate(self, z: Tensor) -> Tensor:
        """Return KL(N(z, scale^2) || N(0, 1)) averaged over features and images, in nats."""
        variance = self.options.scale**2
        return 0.5 * (z.square().mean() + (variance - 1.0 - math.log(variance)))

    def penalty(self, batch: Batch) -> Tensor | None:
        """Return beta times the rate of the features."""
        return self.options.beta * self.rate(batch.z)

    def equivalent_noise_std(self) -> float:
        """Return the standard deviation of the encoder's noise."""
        return self.options.scale

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return a sample of N(z, scale^2), differentiable in z (the reparameterisation)."""
        return z + self.options.scale * standard_normal(z, rng)

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return the signal-to-noise ratio and the rate."""
        return {
            "snr_db": signal_to_noise_db(z, self.options.scale**2),
            "rate_nats_per_feature": float(self.rate(z)),
        }
