"""Augmentations against references that change one image, one pixel at a time."""

import colorsys

import numpy as np
import pytest
import torch

from server.augmentation import (
    augment,
    crop,
    flip,
    scale_brightness,
    scale_contrast,
    scale_saturation,
    turn_hue,
)
from testbed.scenario.training import AugmentationSection

EVERYTHING = AugmentationSection(
    horizontal_flip=True,
    crop_padding_px=3,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
    hue=0.2,
)


def pictures(channels, count=5):
    return torch.rand(count, channels, 8, 6, generator=torch.Generator().manual_seed(channels))


def luminance(image):
    """Return the luminance of a C x H x W array, pixel by pixel."""
    channels, height, width = image.shape
    found = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            pixel = image[:, row, column]
            weighted = (
                0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2] if channels == 3 else 0
            )
            found[row, column] = weighted if channels == 3 else pixel[0]
    return found


def test_flip_mirrors_the_chosen_images():
    images = pictures(3)
    chosen = torch.tensor([True, False, True, False, False])
    flipped = flip(images, chosen)
    for image, other, mirrored in zip(images, flipped, chosen, strict=True):
        for column in range(6):
            wanted = image[:, :, 5 - column] if mirrored else image[:, :, column]
            assert torch.equal(other[:, :, column], wanted)


@pytest.mark.parametrize("channels", [1, 3])
def test_crop_is_a_part_of_the_padded_image(channels):
    images = pictures(channels)
    shifts = torch.tensor([[0, 2, 4, 1, 3], [4, 2, 0, 3, 1]])
    cut = crop(images, 2, shifts)
    for index in range(5):
        padded = np.zeros((channels, 12, 10), dtype=np.float32)
        padded[:, 2:10, 2:8] = images[index].numpy()
        row, column = shifts[:, index].tolist()
        assert np.array_equal(cut[index].numpy(), padded[:, row : row + 8, column : column + 6])
    centred = crop(images, 2, torch.full((2, 5), 2))
    assert torch.equal(centred, images)


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_changes_equal_their_definitions(channels):
    images = pictures(channels)
    factors = torch.tensor([0.8, 1.2, 1.0, 0.9, 1.15])
    bright = scale_brightness(images, factors).numpy()
    contrasted = scale_contrast(images, factors).numpy()
    saturated = scale_saturation(images, factors).numpy()
    for index, factor in enumerate(factors.tolist()):
        image = images[index].numpy().astype(np.float64)
        shade = luminance(image)
        for new, other in (
            (bright, np.zeros_like(shade)),
            (contrasted, np.full_like(shade, shade.mean())),
            (saturated, shade),
        ):
            wanted = np.clip(factor * image + (1.0 - factor) * other, 0.0, 1.0)
            assert np.allclose(new[index], wanted, atol=1e-6)


def test_grey_images_have_no_saturation_to_change():
    images = pictures(1)
    factors = torch.full((5,), 1.7)
    assert torch.allclose(scale_saturation(images, factors), images, atol=1e-6)


def test_hue_against_colorsys():
    images = pictures(3)
    images[0, :, :2] = 0.4  # grey
    images[1, :, 0] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    images[2] = images[2].round()  # corners of the cube: two channels are the brightest
    turns = torch.tensor([0.2, -0.2, 0.5, 0.0, 0.11])
    turned = turn_hue(images, turns)
    for image, new, turn in zip(images, turned, turns.tolist(), strict=True):
        for row in range(8):
            for column in range(6):
                hue, saturation, value = colorsys.rgb_to_hsv(*image[:, row, column].tolist())
                wanted = colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value)
                assert np.allclose(new[:, row, column].numpy(), wanted, atol=1e-5)


def test_grey_images_have_no_hue():
    images = pictures(1)
    assert torch.equal(turn_hue(images, torch.full((5,), 0.3)), images)


@pytest.mark.parametrize("channels", [1, 3])
def test_changes_differ_between_images_and_depend_on_the_seed(channels):
    images = pictures(channels, 1).expand(64, -1, -1, -1)
    first = augment(images, EVERYTHING, torch.Generator().manual_seed(1))
    again = augment(images, EVERYTHING, torch.Generator().manual_seed(1))
    other = augment(images, EVERYTHING, torch.Generator().manual_seed(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({row.numpy().tobytes() for row in first}) > 60
    assert float(first.min()) >= 0.0
    assert float(first.max()) <= 1.0


def test_half_of_the_images_are_flipped_and_shifts_cover_their_range():
    ramp = torch.arange(6.0).div(5.0).expand(2000, 1, 8, 6)
    flipped = augment(
        ramp, AugmentationSection(horizontal_flip=True), torch.Generator().manual_seed(0)
    )
    share = float((flipped[:, 0, 0, 0] == 1.0).float().mean())
    assert 0.45 < share < 0.55
    spot = torch.zeros(2000, 1, 8, 6)
    spot[:, :, 4, 3] = 1.0
    moved = augment(spot, AugmentationSection(crop_padding_px=2), torch.Generator().manual_seed(0))
    places = {tuple(place[2:].tolist()) for place in moved.nonzero()}
    assert places == {(row, column) for row in range(2, 7) for column in range(1, 6)}


def test_without_options_nothing_changes():
    images = pictures(3)
    assert augment(images, AugmentationSection(), torch.Generator()) is images
