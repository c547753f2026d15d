"""Bounds: exact on Gaussian channels, never above the dense value on others."""

import math

import numpy as np
import pytest
import torch
from small import make_deployed
from torch import nn

from testbed.privacy import error_bounds
from testbed.privacy.error_bounds import ANY_DISTRIBUTION_PRIOR, NoiseBounds, jacobian_fault
from testbed.privacy.unseen import unseen_bound

D = 24
PRIOR_STD = 0.2


def _spectrum_bound(gram, noise_std, prior=ANY_DISTRIBUTION_PRIOR):
    """Return the bound that ``NoiseBounds`` estimates, from the dense matrix."""
    information = gram / noise_std**2 + prior * torch.eye(len(gram), dtype=gram.dtype)
    return float((1.0 / torch.linalg.eigvalsh(information)).mean())


def _dense(encoder, points):
    """Return the mean of J' J over points, one feature after the other."""
    gram = torch.zeros(points[0].numel(), points[0].numel(), dtype=torch.float64)
    x = points.clone().requires_grad_()
    z = encoder(x).flatten(1)
    for feature in range(z.shape[1]):
        (row,) = torch.autograd.grad(z[:, feature].sum(), x, retain_graph=True)
        row = row.flatten(1).double()
        gram += row.T @ row
    return gram / len(points)


def _linear(rows, seed=0):
    rng = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, D, generator=rng, dtype=torch.float64)
    # Singular values over two decades, so that trace and spectrum bounds differ.
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    return u @ torch.diag(torch.logspace(0, -2, min(rows, D), dtype=torch.float64)) @ v


def _mmse_attack_error(matrix, noise_std, count=40_000):
    """Monte-Carlo error of the exact posterior mean for x ~ N(0.5, 0.2^2 I), z = A x + noise."""
    rng = torch.Generator().manual_seed(7)
    x = 0.5 + PRIOR_STD * torch.randn(count, D, generator=rng, dtype=torch.float64)
    z = x @ matrix.T
    z = z + noise_std * torch.randn(z.shape, generator=rng, dtype=torch.float64)
    covariance = PRIOR_STD**2 * matrix @ matrix.T
    covariance += (noise_std**2 + 1e-12) * torch.eye(len(matrix), dtype=torch.float64)
    gain = PRIOR_STD**2 * matrix.T @ torch.linalg.inv(covariance)
    guess = 0.5 + (z - 0.5 * matrix.sum(dim=1)) @ gain.T
    return float((guess - x).square().mean())


@pytest.mark.parametrize("rows", [D, 10])
@pytest.mark.parametrize("noise_std", [0.05, 0.3])
def test_the_mmse_attack_reaches_the_spectrum_bound(rows, noise_std):
    matrix = _linear(rows)
    gram = matrix.T @ matrix
    bound = _spectrum_bound(gram, noise_std, prior=1 / PRIOR_STD**2)
    assert _mmse_attack_error(matrix, noise_std) == pytest.approx(bound, rel=0.01)
    information = gram / noise_std**2 + torch.eye(D, dtype=torch.float64) / PRIOR_STD**2
    dfil = D / float(torch.trace(information))
    assert dfil < (0.8 if noise_std == 0.05 else 1.0) * bound


def test_the_mmse_attack_reaches_the_noise_free_bound():
    u, _, v = torch.linalg.svd(_linear(10), full_matrices=False)
    matrix = u @ torch.diag(torch.linspace(1.0, 0.1, 10, dtype=torch.float64)) @ v
    rng = torch.Generator().manual_seed(0)
    found = unseen_bound(lambda x: x @ matrix.T, torch.rand(8, D, dtype=torch.float64), rng)
    bound = found.value * PRIOR_STD**2 * ANY_DISTRIBUTION_PRIOR
    assert bound == pytest.approx((D - 10) / D * PRIOR_STD**2)
    assert _mmse_attack_error(matrix, 0.0) == pytest.approx(bound, rel=0.01)


def test_the_spectrum_bound_of_an_isotropic_encoder_is_dfil():
    gram = 3.0 * torch.eye(D, dtype=torch.float64)
    assert _spectrum_bound(gram, 0.5) == pytest.approx(1 / (3 / 0.25 + 100))


@pytest.mark.parametrize("slope", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("noise_std", [0.1, 0.5])
def test_the_any_distribution_bound_holds_for_black_and_white_pixels(slope, noise_std):
    """x is 0 or 1 plus the smoothing; the exact posterior mean is a sum over a fine grid."""
    x = np.linspace(-0.7, 1.7, 2401)
    density = sum(
        np.exp(-0.5 * ((x - level) / error_bounds.SMOOTHING_STD) ** 2) for level in (0, 1)
    )
    density /= density.sum()
    reach = 5 * noise_std
    z = np.linspace(-0.7 * slope - reach, 1.7 * slope + reach, 3000)
    likelihood = np.exp(-0.5 * ((z[:, None] - slope * x) / noise_std) ** 2)
    joint = likelihood * density
    joint /= joint.sum()
    posterior_mean = (joint @ x) / joint.sum(axis=1)
    error = float((joint * (posterior_mean[:, None] - x) ** 2).sum())
    bound = _spectrum_bound(torch.tensor([[slope**2]]), noise_std)
    assert bound <= error * (1 + 1e-3)
    if slope / noise_std > 20:  # the level is certain, only the smoothing remains
        assert bound == pytest.approx(error, rel=0.01)


def test_a_linear_encoder_has_its_closed_form():
    """With many probes little is left to chance: bounds are close to exact, and not above."""
    matrix = _linear(10)
    gram = matrix.T @ matrix
    points = torch.rand(1500, D, dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    bounds = NoiseBounds(lambda x: x @ matrix.T, points, 4000, rng)
    for noise_std in (0.01, 0.1, 1.0):
        exact = _spectrum_bound(gram, noise_std)
        assert 0.97 * exact < bounds.spectrum(noise_std).lower <= exact
        dfil = D / (float(torch.trace(gram)) / noise_std**2 + 100.0 * D)
        assert bounds.dfil(noise_std).value == pytest.approx(dfil, rel=0.03)
        assert 0.9 * dfil < bounds.dfil(noise_std).lower <= dfil


def _images(count, rng):
    """Return smoothed images of strokes, whose Jacobians differ from image to image."""
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    at = 2.0 + 8.0 * torch.rand(count, 4, generator=rng)
    images = torch.zeros(count, 12, 12)
    for share in torch.linspace(0.0, 1.0, 12):
        row, column = (at[:, i] + share * (at[:, i + 2] - at[:, i]) for i in (0, 1))
        squares = (rows - row[:, None, None]).square() + (columns - column[:, None, None]).square()
        images = images.maximum(torch.exp(-squares))
    return error_bounds.smoothed(images[:, None], rng)


def _encoders():
    """Return a linear encoder, a deep cut and a funnel, by name, of images of 12x12."""
    deep = {"cut": 3, "width": 8}
    shape = {"image_shape": (1, 12, 12)}
    matrix = torch.linalg.qr(torch.randn(144, 144, generator=torch.Generator().manual_seed(3)))[0]
    matrix = matrix[:40] * torch.logspace(0, -2, 40)[:, None]
    return {
        "linear": lambda x: x.flatten(1) @ matrix.T,
        "deep cut": make_deployed(options=deep, **shape).runner.signal,
        "funnel": make_deployed(
            front_end="siftfunnel_cnn", options={"width": 32}, **shape
        ).runner.signal,
    }


LEAST = {
    "linear": {0.01: 0.97, 0.1: 0.97},
    "deep cut": {0.01: 0.6, 0.1: 0.9},
    "funnel": {0.01: 0.6, 0.1: 0.9},
}
"""Shares of the dense value that every bound reaches, by noise relative to the largest response."""


@pytest.mark.parametrize("name", ["linear", "deep cut", "funnel"])
def test_printed_bounds_never_exceed_the_dense_value(name):
    """Ten draws of 240 points against the dense matrix of 300 others.

    The formula itself, on few points, lands above: that is why it is not used.
    """
    encoder, rng = _encoders()[name], torch.Generator().manual_seed(1)
    images = _images(300, rng)
    gram = _dense(encoder, images)
    size = float(torch.linalg.eigvalsh(gram)[-1]) ** 0.5
    few = [_dense(encoder, part) for part in torch.split(images[:96], 24)]
    for share in (0.01, 0.1):
        noise_std = share * size
        exact = _spectrum_bound(gram, noise_std)
        plugged = float(np.mean([_spectrum_bound(part, noise_std) for part in few]))
        lower, dfil = [], []
        for _ in range(10):
            bounds = NoiseBounds(encoder, _images(240, rng), 8 * 144, rng)
            lower.append(bounds.spectrum(noise_std).lower / exact)
            dfil.append(bounds.dfil(noise_std).lower / exact)
        assert max(*lower, *dfil) <= 1.0
        assert min(lower) > LEAST[name][share]
        if name != "linear" and share == 0.01:
            assert plugged > 1.2 * exact


def test_products_with_random_signs_have_the_jacobian_as_their_covariance():
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()).double()
    rng = torch.Generator().manual_seed(0)
    points = torch.rand(5, 1, 6, 6, generator=rng, dtype=torch.float64)
    rows = error_bounds.pulled_back(encoder.requires_grad_(False), points, 4000, rng, chunk=2)
    assert rows.shape == (5, 4000, 36)
    found = torch.einsum("npi,npj->ij", rows, rows) / (5 * 4000)
    expected = _dense(encoder, points)
    torch.testing.assert_close(found, expected, atol=0.05 * float(expected.max()), rtol=0.0)


@pytest.mark.parametrize("spread", [0.3, 0.7])
def test_upper_limits_of_skewed_means_hold_as_often_as_they_say(spread):
    """Lognormal values, 128 at a time: Student's t alone is exceeded twice as often."""
    rng = np.random.default_rng(2)
    draws = torch.from_numpy(rng.lognormal(-(spread**2) / 2, spread, (2000, 128)))
    limits = np.array([error_bounds.upper_mean(values, 0.99) for values in draws])
    plain = (draws.mean(dim=1) + 2.357 * draws.std(dim=1) / 128**0.5).numpy()
    exceeded, plainly = (limits < 1.0).mean(), (plain < 1.0).mean()
    assert exceeded <= 0.02
    assert exceeded < plainly
    assert error_bounds.upper_mean(torch.ones(1), 0.99) == math.inf
    assert error_bounds.upper_mean(torch.ones(5), 0.99) == 1.0


def test_few_points_have_a_loose_bound_and_not_a_high_one():
    encoder, rng = _encoders()["deep cut"], torch.Generator().manual_seed(1)
    for count in (1, 2, 3, 6):
        bounds = NoiseBounds(encoder, _images(count, rng), 500, rng)
        found = bounds.spectrum(0.01)
        assert (found is None) == (count < 3)
        if found is not None:
            assert found.lower == 0.0
        assert bounds.dfil(0.01).lower < bounds.dfil(0.01).value
        if count == 1:
            assert bounds.dfil(0.01).lower == 0.0


def _straight_through(x):
    rounded = (8.0 * x).round() / 8.0
    return x + (rounded - x).detach()


@pytest.mark.parametrize(
    ("encoder", "fault"),
    [
        (lambda x: x.flatten(1), ""),
        (lambda x: nn.functional.max_pool2d(x.relu(), 2) ** 2, ""),
        (lambda x: 0.0 * x, ""),
        (lambda x: 3.0 + 1e-4 * x, ""),
        (_straight_through, "derivatives"),
        (lambda x: x * x.detach(), "derivatives"),
        (lambda x: x.detach() + 0.0 * x, "derivatives"),
        (lambda x: x * math.inf, "not finite"),
    ],
)
def test_derivatives_that_are_none_are_found_out(encoder, fault):
    rng = torch.Generator().manual_seed(0)
    found = jacobian_fault(encoder, _images(24, rng), rng)
    assert (fault in found) if fault else found == ""


@pytest.mark.parametrize("name", ["linear", "deep cut", "funnel"])
def test_front_ends_have_derivatives(name):
    rng = torch.Generator().manual_seed(0)
    assert jacobian_fault(_encoders()[name], _images(24, rng), rng) == ""


def test_smoothing_has_the_stated_deviation():
    images = torch.full((50, 1, 16, 16), 0.5)
    noise = error_bounds.smoothed(images, torch.Generator().manual_seed(0)) - images
    assert float(noise.std()) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("noise_std", [0.05, 2.0])
def test_cem_relative_is_exact_on_a_gaussian_channel(noise_std):
    """H(x) and H(x|z) of x ~ N(0.5, 0.2^2 I), z = A x + noise, from their covariances."""
    matrix = _linear(10)
    signal = PRIOR_STD**2 * matrix @ matrix.T
    posterior = torch.linalg.inv(
        torch.eye(D, dtype=torch.float64) / PRIOR_STD**2 + matrix.T @ matrix / noise_std**2
    )
    whole = D * math.log(PRIOR_STD) + 0.5 * D * math.log(2 * math.pi * math.e)
    left = 0.5 * float(torch.logdet(posterior)) + 0.5 * D * math.log(2 * math.pi * math.e)
    expected = error_bounds.cem_figure(left, D) / error_bounds.cem_figure(whole, D)
    variances = torch.linalg.eigvalsh(signal).tolist()
    assert error_bounds.cem_relative(variances, noise_std, D) == pytest.approx(expected)
    assert error_bounds.cem_relative([], noise_std, D) == 1.0


def test_cem_figure_is_the_variance_of_a_gaussian():
    entropy = D * 0.5 * math.log(2 * math.pi * math.e * 0.3**2)
    assert error_bounds.cem_figure(entropy, D) == pytest.approx(0.09)
