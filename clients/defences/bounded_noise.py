"""What defences that add noise share: features of bounded power, and their signal-to-noise ratio.

Without a bound the front-end would learn larger features until the noise no longer matters.
"""

import math

import torch
from torch import Tensor

from clients.defences.base import Defence


def bound_power(z: Tensor, bound: float) -> Tensor:
    """Scale each image's features down to a root mean square of at most ``bound``.

    This is clipping to an L2 norm of C = bound * sqrt(d) for d features, z / max(1, |z| / C)
    (Abadi et al. 2016, arXiv 1607.00133, algorithm 1; for features ARDEN, arXiv 1809.03428), with
    a bound that means the same for every front-end.

    Parameters
    ----------
    z : features (N, ...).
    """
    power = z.flatten(1).square().mean(dim=1).reshape(-1, *[1] * (z.dim() - 1))
    # The clamp is inside the root: a root of 0 would have no gradient.
    return z * (bound * power.clamp_min(bound**2).rsqrt())


def signal_to_noise_db(signal: Tensor, noise_power: float) -> float:
    """Return 10 log10(signal power / noise power), dB.

    Signal power is the mean square of the deviations from each feature's mean over the images:
    what is the same for every image tells nothing about one. Identical images give -inf, no noise
    gives inf.

    Parameters
    ----------
    signal : features of at least two images before the noise (N, ...).
    noise_power : mean square of the noise on each feature.
    """
    power = float((signal - signal.mean(dim=0)).square().mean())
    if power == 0.0:
        return -math.inf
    return 10.0 * math.log10(power / noise_power) if noise_power > 0.0 else math.inf


def measured_signal_to_noise_db(signal: Tensor, released: Tensor) -> float:
    """Return the ratio for what a release added to ``signal``, dB; a constant offset counts."""
    return signal_to_noise_db(signal, float((released - signal).square().mean()))


class BoundedNoise(Defence):
    """Bounds the power of the features, then adds independent noise to each.

    Parameters
    ----------
    bound : largest root mean square of an image's features.
    scale : scale of the noise, in the units of the features.
    """

    def __init__(self, bound: float, scale: float) -> None:
        self.bound = bound
        self.scale = scale

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on each feature."""
        raise NotImplementedError

    def standard_noise(self, shape: torch.Size, rng: torch.Generator) -> Tensor:
        """Draw noise of scale 1 from ``rng``."""
        raise NotImplementedError

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return the bounded features plus ``scale`` times standard noise."""
        noise = self.standard_noise(z.shape, rng).to(device=z.device, dtype=z.dtype)
        return self.signal(z) + self.scale * noise

    def signal(self, z: Tensor) -> Tensor:
        """Return the bounded features."""
        return bound_power(z, self.bound)

    def equivalent_noise_std(self) -> float:
        """Return the scale: Gaussian N(0, s^2) and Laplace of scale s both tell 1 / s^2."""
        return self.scale

    def signal_to_noise_db(self, z: Tensor) -> float:
        """Return the signal-to-noise ratio of these images' features (N, ...), dB."""
        return signal_to_noise_db(bound_power(z.detach(), self.bound), self.noise_std**2)

    def largest_signal_to_noise_db(self) -> float:
        """Return the ratio that no features can exceed, whatever the front-end learns, dB."""
        return 20.0 * math.log10(self.bound / self.noise_std)

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return the signal-to-noise ratio of these images, and the most there could be."""
        return {
            "snr_db": self.signal_to_noise_db(z),
            "largest_snr_db": self.largest_signal_to_noise_db(),
        }
