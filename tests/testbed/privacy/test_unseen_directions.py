"""The noise-free error bound: exact where directions are ignored, else 0, or no bound at all."""

import pytest
import torch

from testbed.privacy.unseen import unseen_bound

D = 16


def _points(count=12):
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def _floor(encoder, points=None):
    points = _points() if points is None else points
    return unseen_bound(encoder, points, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("rows", "share"), [(10, 6 / D), (15, 1 / D), (16, 0.0), (30, 0.0)])
def test_a_linear_map_has_the_floor_of_its_kernel(rows, share):
    matrix = torch.randn(rows, D, generator=torch.Generator().manual_seed(2))
    found = _floor(lambda x: (x.flatten(1) @ matrix.T).relu() + x.flatten(1) @ matrix.T)
    assert found.value == pytest.approx(0.01 * share)
    assert found.reason == ""


def test_a_direction_that_is_seen_faintly_is_seen():
    scale = torch.ones(D)
    scale[3] = 1e-3
    assert _floor(lambda x: x.flatten(1) * scale).value == 0.0
    scale[3] = 0.0
    assert _floor(lambda x: x.flatten(1) * scale).value == pytest.approx(0.01 / D)


def test_constant_features_leave_what_the_smoothing_leaves_open():
    assert _floor(lambda x: 0.0 * x.flatten(1)).value == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("ignored", "value"),
    [
        (([3], [4]), 0.0),
        (([0, 3], [0]), None),
        (([0, 3], [0, 3]), 0.02 / D),
        (([0], [0, 3]), 0.01 / D),
    ],
)
def test_no_floor_is_claimed_of_what_other_images_show(ignored, value):
    """Images above and below a mean of one half ignore other pixels, every other one of them."""
    points = _points() - 0.5
    points -= points.mean(dim=(1, 2, 3), keepdim=True)
    points[::2] += 1.0

    def encoder(x):
        flat = x.flatten(1)
        masks = torch.ones(2, D)
        for mask, pixels in zip(masks, ignored, strict=True):
            mask[pixels] = 0.0
        return flat * torch.where(flat.detach().mean(dim=1, keepdim=True) > 0.5, *masks)

    found = _floor(encoder, points)
    assert found.value == (None if value is None else pytest.approx(value))
    assert ("differ between images" in found.reason) == (value is None)


def test_what_cannot_be_examined_says_so():
    assert "two images" in _floor(lambda x: x, _points(1)).reason
    found = _floor(lambda x: x * float("nan"))
    assert (found.value, found.reason) == (None, "its Jacobian is not finite")
