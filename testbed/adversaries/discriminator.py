"""Networks that tell two kinds of samples apart, patch by patch, where wanted given their class."""

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
    """Tells real samples from made ones of the same class.

    Parameters
    ----------
    channels : of the samples, which are features or images.
    halvings : how often the samples are pooled by 2 first, so that a patch covers more of them.
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
    """Return the loss (N,) of samples that should pass for real: -log D, the non-saturating one."""
    return functional.softplus(-logits).flatten(1).mean(dim=1)


def told_apart(real: Tensor, made: Tensor) -> Tensor:
    """Return the loss of the discriminator on the logits of real and of made samples."""
    return functional.softplus(-real).mean() + functional.softplus(made).mean()
