"""Random augmentation of a batch: flip, crop, brightness, contrast, saturation, hue.

Every image gets its own draws, made on the CPU and applied on the images' device, so that a batch
changes in the same way on every device. The order is fixed: geometry first, then brightness,
contrast, saturation and hue, each clipped to [0, 1]. torchvision draws the order of these four.
"""

import torch
from torch import Tensor

from testbed.scenario.training import AugmentationSection

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luminance (ITU-R BT.601)."""


def augment(images: Tensor, section: AugmentationSection, rng: torch.Generator) -> Tensor:
    """Return augmented copies of images in [0, 1], (N, C, H, W) with C of 1 or 3.

    Parameters
    ----------
    rng : CPU generator; the same state gives the same augmentation.
    """
    count = len(images)
    if section.horizontal_flip:
        chosen = torch.rand(count, generator=rng) < 0.5
        images = flip(images, chosen.to(images.device))
    if section.crop_padding_px:
        shifts = torch.randint(2 * section.crop_padding_px + 1, (2, count), generator=rng)
        images = crop(images, section.crop_padding_px, shifts.to(images.device))
    for change, strength in (
        (scale_brightness, section.brightness),
        (scale_contrast, section.contrast),
        (scale_saturation, section.saturation),
    ):
        if strength:
            factors = 1.0 + strength * (2.0 * torch.rand(count, generator=rng) - 1.0)
            images = change(images, factors.to(images.device, images.dtype))
    if section.hue:
        turns = section.hue * (2.0 * torch.rand(count, generator=rng) - 1.0)
        images = turn_hue(images, turns.to(images.device, images.dtype))
    return images


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the images (N, C, H, W) for which ``chosen`` (N,) is true."""
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def crop(images: Tensor, padding: int, shifts: Tensor) -> Tensor:
    """Pad (N, C, H, W) with black on all sides, and crop to the original size.

    Parameters
    ----------
    shifts : int64 (2, N), row and column of the crop's corner in the padded image, each from 0 to
        ``2 * padding``.
    """
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    rows = shifts[0][:, None] + torch.arange(height, device=images.device)
    columns = shifts[1][:, None] + torch.arange(width, device=images.device)
    of_image = torch.arange(count, device=images.device)[:, None, None]
    # This indexing puts the channels last, the fastest layout for convolutions.
    cropped = padded.permute(0, 2, 3, 1)[of_image, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


def grey(images: Tensor) -> Tensor:
    """Return the luminance (N, 1, H, W) of images with 1 or 3 channels."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(LUMA, device=images.device, dtype=images.dtype)
    return (images * weights[:, None, None]).sum(dim=1, keepdim=True)


def _blend(images: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    weight = factors[:, None, None, None]
    return (weight * images + (1.0 - weight) * other).clamp_(0.0, 1.0)


def scale_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply each image by its factor (N,)."""
    return _blend(images, torch.zeros_like(images), factors)


def scale_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Scale each image's distance from its own mean luminance by its factor (N,)."""
    return _blend(images, grey(images).mean(dim=(2, 3), keepdim=True), factors)


def scale_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Scale each pixel's distance from its own luminance by its factor (N,)."""
    return _blend(images, grey(images), factors)


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn each image's hue in HSV by its share (N,) of a full circle; grey has no hue.

    Saturation and value of every pixel are kept.
    """
    if images.shape[1] == 1:
        return images
    value, brightest = images.max(dim=1)
    chroma = value - images.amin(dim=1)
    red, green, blue = images.unbind(dim=1)
    sectors = torch.stack([green - blue, blue - red, red - green], dim=1)
    # In sixths of a circle: red is brightest around 0, green around 2, blue around 4.
    sector = sectors.gather(1, brightest[:, None])[:, 0] / chroma.clamp_min(1e-12) + 2.0 * brightest
    hue = (sector + 6.0 * turns[:, None, None])[:, None]
    start = torch.tensor([5.0, 3.0, 1.0], device=images.device, dtype=images.dtype)
    position = (start[:, None, None] + hue) % 6.0
    share = torch.minimum(position, 4.0 - position).clamp(0.0, 1.0)
    return (value[:, None] - chroma[:, None] * share).clamp_(0.0, 1.0)
