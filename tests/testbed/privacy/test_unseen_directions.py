"""The noise-free error bound: exact for ignored directions, else 0, or no bound."""

import pytest
import torch
from small import make_deployed

from testbed.privacy.unseen import unseen_bound

D = 16


def _points(count=12):
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def _bound(encoder, points=None):
    points = _points() if points is None else points
    return unseen_bound(encoder, points, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("rows", "share"), [(10, 6 / D), (15, 1 / D), (16, 0.0), (30, 0.0)])
def test_a_linear_map_has_the_bound_of_its_kernel(rows, share):
    matrix = torch.randn(rows, D, generator=torch.Generator().manual_seed(2))
    found = _bound(lambda x: (x.flatten(1) @ matrix.T).relu() + x.flatten(1) @ matrix.T)
    assert found.value == pytest.approx(0.01 * share)
    assert found.reason == ""


def test_a_direction_with_a_weak_response_is_seen():
    scale = torch.ones(D)
    scale[3] = 1e-3
    assert _bound(lambda x: x.flatten(1) * scale).value == 0.0
    scale[3] = 0.0
    assert _bound(lambda x: x.flatten(1) * scale).value == pytest.approx(0.01 / D)


def test_constant_features_have_the_bound_of_the_smoothing():
    assert _bound(lambda x: 0.0 * x.flatten(1)).value == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("ignored", "value"),
    [
        (([3], [4]), 0.0),
        (([0, 3], [0]), None),
        (([0, 3], [0, 3]), 0.02 / D),
        (([0], [0, 3]), 0.01 / D),
    ],
)
def test_no_bound_is_given_if_images_ignore_different_directions(ignored, value):
    """Images with a mean above one half ignore every second pixel, others the pixels between."""
    points = _points() - 0.5
    points -= points.mean(dim=(1, 2, 3), keepdim=True)
    points[::2] += 1.0

    def encoder(x):
        flat = x.flatten(1)
        masks = torch.ones(2, D)
        for mask, pixels in zip(masks, ignored, strict=True):
            mask[pixels] = 0.0
        return flat * torch.where(flat.detach().mean(dim=1, keepdim=True) > 0.5, *masks)

    found = _bound(encoder, points)
    assert found.value == (None if value is None else pytest.approx(value))
    assert ("differ between images" in found.reason) == (value is None)


def test_a_bound_that_cannot_be_computed_states_the_reason():
    assert "two images" in _bound(lambda x: x, _points(1)).reason
    found = _bound(lambda x: x * float("nan"))
    assert (found.value, found.reason) == (None, "its Jacobian is not finite")


def test_directions_that_only_a_rare_image_shows_give_no_bound():
    """A unit that no image of the data wakes up: its direction is hidden only as long as so."""

    def encoder(x):
        flat = x.flatten(1)
        return torch.cat([flat[:, 1:], (flat[:, :1] - 3.0).relu()], dim=1)

    assert float(_points()[:, 0, 0, 0].max()) < 3.0
    found = _bound(encoder)
    assert found.value is None
    assert "differ between images" in found.reason


def test_directions_that_one_image_in_a_hundred_shows_are_seen():
    """The sample that the directions come from has none of these images, the held-out one has."""
    points = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    points[:, 0, 0, 0] = 0.0
    points[1::100, 0, 0, 0] = 1.0

    def encoder(x):
        flat = x.flatten(1)
        return torch.cat([flat[:, 1:], flat[:, :1] * (flat[:, :1] > 0.9)], dim=1)

    assert _bound(encoder, points).value == 0.0
    assert _bound(encoder, points[::2]).value is None


def test_what_a_view_hides_is_hidden_from_every_image():
    """SiftFunnel+ removes nine frequencies of every image: 9 of 1,024 directions."""
    deployed = make_deployed(defence="siftfunnel_plus", defence_options={"hidden_frequencies": 3})
    points = torch.rand(40, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    found = _bound(deployed.runner.signal, points)
    assert (found.value, found.reason) == (pytest.approx(0.01 * 9 / 1024), "")
