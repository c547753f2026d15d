"""The simulated attacker of adversarially trained defences: a small decoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from clients.defences.base import Batch, Shape


class InversionDecoder(nn.Module):
    """Maps features (N, C', H', W') to images (N, C, H, W) in [0, 1].

    Features are first centred and every channel scaled to unit variance between the batch's images,
    as attackers do: shrinking the features must not fool the decoder.

    Parameters
    ----------
    width : channels of its hidden layers.
    """

    def __init__(self, feature_shape: Shape, image_shape: Shape, width: int) -> None:
        super().__init__()
        self.image_size = image_shape[1:]
        self.enter = nn.Conv2d(feature_shape[0], width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, image_shape[0], 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map released features to images."""
        hidden = functional.silu(self.enter(standardised(features)))
        hidden = hidden + functional.silu(self.middle(hidden))
        # Upsampled last: all but the last convolution run at the features' size.
        hidden = functional.interpolate(hidden, size=self.image_size, mode="nearest")
        return torch.sigmoid(self.leave(hidden))


def standardised(features: Tensor) -> Tensor:
    """Centre each element over the images, and scale each channel to unit variance between them."""
    deviations = features - features.mean(dim=0)
    variance = deviations.square().mean(dim=(0, 2, 3), keepdim=True)
    return deviations * (variance + 1e-12).rsqrt()


def inversion_loss(decoder: nn.Module, batch: Batch) -> Tensor:
    """Return the decoder's mean squared error per element on a batch."""
    return functional.mse_loss(decoder(batch.released), batch.x)


def explained_share(decoder: nn.Module, batch: Batch) -> Tensor:
    """Return the share of the images' variance that the decoder explains, at least 0.

    1 - MSE / MSE of the batch's mean image. A decoder that does no better than the mean image has
    learned nothing, and making it worse protects nothing.
    """
    variance = (batch.x - batch.x.mean(dim=0)).square().mean().clamp_min(1e-12)
    return (1.0 - inversion_loss(decoder, batch) / variance).clamp_min(0.0)
