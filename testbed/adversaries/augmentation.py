"""Random variations of auxiliary images, for attackers without a limit of queries."""

import torch
from torch import Tensor
from torch.nn import functional

from testbed.adversaries.base import FloatArray
from testbed.core import seeds
from testbed.core.compute import as_array, on_device

_ZOOM = 0.15
_SHIFT = 0.1
_ANGLE = 0.15  # radians
_CONTRAST = 0.25
_BRIGHTNESS = 0.1


def vary(images: FloatArray, seed: int, epoch: int) -> FloatArray:
    """Return images (N, C, H, W) in [0, 1], mirrored, rotated, zoomed, shifted and re-exposed.

    Every image gets a new random variation in each epoch. The inverse of the front-end is the same
    function for all of them, so variations are further training data for it.
    """
    rng = seeds.torch_generator(seed, "augmentation", epoch)
    x = on_device(images.copy())
    count = len(x)

    def uniform(bound: float) -> Tensor:
        return (2.0 * torch.rand(count, generator=rng) - 1.0) * bound

    angle, zoom = uniform(_ANGLE), 1.0 + uniform(_ZOOM)
    mirrored = torch.where(torch.rand(count, generator=rng) < 0.5, -1.0, 1.0)
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    rows = [
        torch.stack([cosine * mirrored, -sine, uniform(_SHIFT)], dim=1),
        torch.stack([sine * mirrored, cosine, uniform(_SHIFT)], dim=1),
    ]
    grid = functional.affine_grid(
        on_device(torch.stack(rows, dim=1)), list(x.shape), align_corners=False
    )
    moved = functional.grid_sample(
        x, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    contrast = on_device(1.0 + uniform(_CONTRAST)).reshape(-1, 1, 1, 1)
    brightness = on_device(uniform(_BRIGHTNESS)).reshape(-1, 1, 1, 1)
    middle = moved.mean(dim=(1, 2, 3), keepdim=True)
    exposed = ((moved - middle) * contrast + middle + brightness).clamp_(0.0, 1.0)
    varied: FloatArray = as_array(exposed.contiguous())
    return varied
