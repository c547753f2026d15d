"""Discriminators: networks that distinguish real from fake samples, patch by patch."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from testbed.adversaries.decoder_network import convolution

_LEAK = 0.2


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
