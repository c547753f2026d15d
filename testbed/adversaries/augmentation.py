"""Random variations of auxiliary images, whose features an attacker queries."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from testbed.adversaries.base import FloatArray
from testbed.core import seeds
from testbed.core.compute import as_array, on_device


@dataclass(frozen=True)
class Bounds:
    """How far a variation may be from its image.

    Attributes
    ----------
    angle : largest rotation, in radians.
    shift : in halves of the image's side.
    zoom, contrast, brightness : shares.
    mirrored : share of the images that are mirrored.
    """

    angle: float
    shift: float
    zoom: float
    contrast: float
    brightness: float
    mirrored: float


WIDE = Bounds(0.15, 0.1, 0.15, 0.25, 0.1, 0.5)
"""For networks, which learn an inverse of images that are not the attacker's own."""
NEAR = Bounds(0.175, 0.05, 0.0, 0.1, 0.0, 0.0)
"""For closed forms, which interpolate: variations that could be images of the same kind."""


def vary(images: FloatArray, seed: int, epoch: int, bounds: Bounds = WIDE) -> FloatArray:
    """Return images (N, C, H, W) in [0, 1], mirrored, rotated, zoomed, shifted and re-exposed.

    Every image gets a new random variation in each epoch. The inverse of the front-end is the same
    function for all of them, so variations are further training data for it.
    """
    rng = seeds.torch_generator(seed, "augmentation", epoch)
    x = on_device(images.copy())
    count = len(x)

    def uniform(bound: float) -> Tensor:
        return (2.0 * torch.rand(count, generator=rng) - 1.0) * bound

    angle, zoom = uniform(bounds.angle), 1.0 + uniform(bounds.zoom)
    mirrored = torch.where(torch.rand(count, generator=rng) < bounds.mirrored, -1.0, 1.0)
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    rows = [
        torch.stack([cosine * mirrored, -sine, uniform(bounds.shift)], dim=1),
        torch.stack([sine * mirrored, cosine, uniform(bounds.shift)], dim=1),
    ]
    grid = functional.affine_grid(
        on_device(torch.stack(rows, dim=1)), list(x.shape), align_corners=False
    )
    moved = functional.grid_sample(
        x, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    contrast = on_device(1.0 + uniform(bounds.contrast)).reshape(-1, 1, 1, 1)
    brightness = on_device(uniform(bounds.brightness)).reshape(-1, 1, 1, 1)
    middle = moved.mean(dim=(1, 2, 3), keepdim=True)
    exposed = ((moved - middle) * contrast + middle + brightness).clamp_(0.0, 1.0)
    varied: FloatArray = as_array(exposed.contiguous())
    return varied
