"""Mutual information regularisation with a learned encoder (MID, Zou et al. 2023).

    L = E[-log q(y | t)] + beta * KL(N(mean(z), variance(z)) || N(0, I)),   t ~ N(mean, variance)

(arXiv 2301.01142), the variational bound on I(x; t) of Alemi et al. 2017 (arXiv 1612.00410, eq.
17). Mean and variance are 1x1 convolutions of the features, computed on the device. With the mean
fixed at z and a fixed variance this is the defence ``vib``. The divergence is taken per feature, so
that beta means the same for every front-end; the papers' weight is beta divided by the number of
features.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from clients.defences.base import Batch, Defence, Shape
from clients.defences.noise import signal_to_noise_db, standard_normal
from testbed.core.registries import DEFENCES
from testbed.core.registry import Options, Positive

LARGEST_LOG_VARIANCE = 10.0  # keeps the exponential finite


class MidOptions(Options):
    """Weight of the rate, and the initial variance of the encoder."""

    beta: Positive = Field(default=0.1, description="weight of the rate in nats per feature")
    initial_scale: Positive = Field(
        default=0.5, description="standard deviation of the noise before training"
    )


class _Encoder(nn.Module):
    """Mean and log variance of the released features, both 1x1 convolutions of z."""

    def __init__(self, channels: int, initial_scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2 * channels, channels, 1, 1))
        self.bias = nn.Parameter(torch.empty(2 * channels))
        self.initial_log_variance = 2.0 * float(torch.tensor(initial_scale).log())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start at the identity with the initial variance everywhere."""
        channels = self.weight.shape[1]
        with torch.no_grad():
            self.weight.zero_()
            self.weight[:channels, :, 0, 0] = torch.eye(channels)
            self.bias[:channels] = 0.0
            self.bias[channels:] = self.initial_log_variance

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = functional.conv2d(z, self.weight, self.bias).chunk(2, dim=1)
        return mean, log_variance.clamp(-LARGEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE)


@DEFENCES.register(
    "mid",
    "learned Gaussian encoder with a penalty on the information it transmits",
    MidOptions,
    source="Zou et al. 2023, arXiv 2301.01142; Alemi et al. 2017, arXiv 1612.00410, eq. 17",
)
class Mid(Defence):
    """Sends a sample of a learned distribution and penalises its rate."""

    release_layers: _Encoder

    options: MidOptions

    def build(self, image_shape: Shape, feature_shape: Shape, num_classes: int) -> None:
        """Build the encoder of the released distribution."""
        self.release_layers = _Encoder(feature_shape[0], self.options.initial_scale)

    def _encode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the release of z."""
        mean, log_variance = self.release_layers(z)
        return mean, log_variance

    def rate(self, z: Tensor) -> Tensor:
        """Return KL(N(mean, variance) || N(0, 1)) averaged over features and images, in nats."""
        mean, log_variance = self._encode(z)
        divergence = mean.square() + log_variance.exp() - 1.0 - log_variance
        return 0.5 * divergence.mean()

    def penalty(self, batch: Batch) -> Tensor | None:
        """Return beta times the rate of the features."""
        return self.options.beta * self.rate(batch.z)

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return a sample of N(mean(z), variance(z)), differentiable (the reparameterisation)."""
        mean, log_variance = self._encode(z)
        return mean + (0.5 * log_variance).exp() * standard_normal(z, rng)

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return the signal-to-noise ratio and the rate."""
        with torch.no_grad():
            mean, log_variance = self._encode(z)
            snr_db = signal_to_noise_db(mean, float(log_variance.exp().mean()))
            return {"snr_db": snr_db, "rate_nats_per_feature": float(self.rate(z))}
