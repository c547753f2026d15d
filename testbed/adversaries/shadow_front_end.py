"""Shadow front-ends, and the losses that align their features with those of the devices.

Shokri et al. (IEEE S&P 2017) call a model that imitates the victim's a shadow model. Features are
aligned by discriminators and by the maximum mean discrepancy (MMD).
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from testbed.adversaries.base import FloatArray
from testbed.adversaries.decoder_network import convolution
from testbed.core import seeds
from testbed.core.compute import compute_device, on_device
from testbed.core.registries import FRONT_ENDS
from testbed.scenario.components import Component

_LEAK = 0.2
_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the median squared distance
_POSITIONS = 4  # feature vectors per map, for the distribution across channels


class ShadowFrontEnd(nn.Module):
    """A front-end with weights drawn by the attacker, on images in [0, 1].

    Parameters
    ----------
    images : auxiliary images (N, C, H, W); their statistics normalise the inputs.
    seed, purpose : the random stream of the initial weights.
    """

    def __init__(
        self, architecture: Component, images: FloatArray, seed: int, purpose: str
    ) -> None:
        super().__init__()
        with seeds.global_stream(seeds.torch_generator(seed, purpose)):
            self.layers = FRONT_ENDS.create(
                architecture.name, architecture.options, image_shape=images.shape[1:]
            )
        self.feature_shape: tuple[int, int, int] = self.layers.feature_shape
        self.to(compute_device())
        self._mean = on_device(images.mean(axis=(0, 2, 3), keepdims=True))
        deviation = np.maximum(images.std(axis=(0, 2, 3), keepdims=True), np.float32(1e-3))
        self._deviation = on_device(deviation)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) in [0, 1] to features."""
        features: Tensor = self.layers((x - self._mean) / self._deviation)
        return features


def discriminator(channels: int, width: int, rng: torch.Generator) -> nn.Sequential:
    """Return a network from feature maps (N, channels, H, W) to one logit per position."""
    return nn.Sequential(
        convolution(channels, width, 3, rng, gain=1.0),
        nn.LeakyReLU(_LEAK),
        convolution(width, width, 3, rng, gain=1.0),
        nn.LeakyReLU(_LEAK),
        convolution(width, 1, 1, rng, gain=1.0),
    )


class ClassDiscriminator(nn.Module):
    """Distinguishes real from fake samples of the same class.

    Parameters
    ----------
    channels : of the samples, which are features or images.
    halvings : how often the samples are folded by 2 first, so that a patch covers a larger area.
    """

    def __init__(
        self, channels: int, classes: int, width: int, rng: torch.Generator, halvings: int = 0
    ) -> None:
        super().__init__()
        self._fold = 2**halvings
        self.layers = discriminator(channels * self._fold**2 + classes, width, rng)

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        """Map samples (N, C, H, W) and one-hot classes (N, K) to logits, high for real ones."""
        folded = functional.pixel_unshuffle(samples, self._fold)
        planes = labels[:, :, None, None].expand(-1, -1, *folded.shape[2:])
        logits: Tensor = self.layers(torch.cat([folded, planes], dim=1))
        return logits


def taken_for_real(logits: Tensor) -> Tensor:
    """Return the non-saturating loss -log D (N,) of samples that should be taken for real."""
    return functional.softplus(-logits).flatten(1).mean(dim=1)


def told_apart(real: Tensor, fake: Tensor) -> Tensor:
    """Return the loss of the discriminator on the logits of real and of fake samples."""
    return functional.softplus(-real).mean() + functional.softplus(fake).mean()


def discrepancy(fake: Tensor, real: Tensor, rng: torch.Generator) -> Tensor:
    """Return the MMD of whole feature maps plus that of feature vectors at a few positions."""
    cells = fake.shape[2] * fake.shape[3]
    chosen = torch.randperm(cells, generator=rng)[:_POSITIONS]
    total = mmd_squared(fake.flatten(1), real.flatten(1))
    for position in chosen:
        total = total + mmd_squared(
            fake.flatten(2)[:, :, position], real.flatten(2)[:, :, position]
        ) / len(chosen)
    return total


def mmd_squared(first: Tensor, second: Tensor) -> Tensor:
    """Return the biased MMD^2 of samples (N, d) and (M, d), averaged over Gaussian bandwidths.

    Bandwidths are multiples of the median squared distance between the samples.
    """
    both = torch.cat([first, second])
    distances = torch.cdist(both, both).square()
    with torch.no_grad():
        typical = distances[distances > 0].median() if (distances > 0).any() else torch.ones(())
    count = len(first)
    kernel = torch.stack([torch.exp(-distances / (typical * scale)) for scale in _BANDWIDTHS]).mean(
        0
    )
    within = kernel[:count, :count].mean() + kernel[count:, count:].mean()
    return within - 2.0 * kernel[:count, count:].mean()
