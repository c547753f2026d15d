"""Shared by defences that add noise: features of bounded power, draws, signal-to-noise ratios.

Without a bound the front-end would learn larger features until the noise no longer matters.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from clients.defences.base import Defence


def bound_power(z: Tensor, bound: float) -> Tensor:
    """Scale each image's features down to a root mean square of at most ``bound``.

    This is clipping to an L2 norm of C = bound * sqrt(d) for d features, z / max(1, |z| / C)
    (Abadi et al. 2016, arXiv 1607.00133, algorithm 1; for features ARDEN, arXiv 1809.03428), with
    a bound that does not depend on the number of features.

    Parameters
    ----------
    z : features (N, ...).
    """
    power = z.flatten(1).square().mean(dim=1).reshape(-1, *[1] * (z.dim() - 1))
    # The clamp is inside the root: a root of 0 would have no gradient.
    return z * (bound * power.clamp_min(bound**2).rsqrt())


def standard_normal(like: Tensor, rng: torch.Generator, shape: torch.Size | None = None) -> Tensor:
    """Draw from N(0, 1) on the device and in the dtype of ``like``, by default in its shape."""
    draw = torch.randn(like.shape if shape is None else shape, generator=rng, device=rng.device)
    return draw.to(device=like.device, dtype=like.dtype)


def standard_laplace(like: Tensor, rng: torch.Generator) -> Tensor:
    """Draw from Laplace(0, 1), as the difference of two exponentials; never infinite."""
    first = torch.empty(like.shape, device=rng.device).exponential_(generator=rng)
    second = torch.empty(like.shape, device=rng.device).exponential_(generator=rng)
    return (first - second).to(device=like.device, dtype=like.dtype)


def signal_to_noise_db(signal: Tensor, noise_power: float) -> float:
    """Return 10 log10(signal power / noise power), dB.

    Signal power is the mean square of the deviations from each feature's mean over the images:
    a part that all images share has no information about one. Identical images give -inf, no noise
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
    """Bounds the power of the features by ``bound``, then adds noise of ``scale`` to each.

    Attributes
    ----------
    standard_noise : draws noise of scale 1 from a generator, in the shape of a tensor.
    standard_deviation : of noise of scale 1.
    """

    standard_noise: Callable[[Tensor, torch.Generator], Tensor]
    standard_deviation: float = 1.0

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return the bounded features plus ``scale`` times standard noise."""
        noise: Tensor = self.options.scale * self.standard_noise(z, rng)
        return self.signal(z) + noise

    def signal(self, z: Tensor) -> Tensor:
        """Return the bounded features."""
        return bound_power(z, self.options.bound)

    def equivalent_noise_std(self) -> float:
        """Return the scale s: the Fisher information of Gaussian and Laplace noise is 1 / s^2."""
        return float(self.options.scale)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on each feature."""
        return float(self.standard_deviation * self.options.scale)

    def signal_to_noise_db(self, z: Tensor) -> float:
        """Return the signal-to-noise ratio of these images' features (N, ...), dB."""
        return signal_to_noise_db(self.signal(z.detach()), self.noise_std**2)

    def largest_signal_to_noise_db(self) -> float:
        """Return the largest possible ratio for any front-end, dB."""
        return 20.0 * math.log10(self.options.bound / self.noise_std)

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return the signal-to-noise ratio of these images, and the largest possible one."""
        return {
            "snr_db": self.signal_to_noise_db(z),
            "largest_snr_db": self.largest_signal_to_noise_db(),
        }
