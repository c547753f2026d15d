"""Bounds: exact on Gaussian channels, valid on others, matrix-free equals dense."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from testbed.privacy import error_bounds
from testbed.privacy.error_bounds import ANY_DISTRIBUTION_PRIOR, ExpectedGram, SpectrumQuadrature

D = 24
PRIOR_STD = 0.2


def _spectrum_bound(gram, noise_std, prior=ANY_DISTRIBUTION_PRIOR):
    """Return the bound that ``SpectrumQuadrature`` estimates, from the dense matrix."""
    information = gram / noise_std**2 + prior * torch.eye(len(gram), dtype=gram.dtype)
    return float((1.0 / torch.linalg.eigvalsh(information)).mean())


def _dense(gram):
    return torch.stack([gram @ column for column in torch.eye(gram.dimension, dtype=torch.double)])


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
    bound = error_bounds.noise_free_bound(matrix.T @ matrix, 1e-4, 1 / PRIOR_STD**2)
    assert bound == pytest.approx((D - 10) / D * PRIOR_STD**2)
    assert _mmse_attack_error(matrix, 0.0) == pytest.approx(bound, rel=0.01)


def test_the_noise_free_bound_is_zero_if_every_direction_is_seen():
    assert error_bounds.noise_free_bound(torch.eye(D, dtype=torch.float64), 1e-4) == 0.0
    faint = torch.diag(torch.tensor([1.0, 1e-3, 1e-5], dtype=torch.float64))
    assert error_bounds.noise_free_bound(faint, 1e-4) == pytest.approx(0.01 / 3)
    assert error_bounds.noise_free_bound(faint, 1e-6) == 0.0


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


def _network():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.ReLU()
    )
    return layers.double().eval().requires_grad_(False)


def test_products_equal_the_jacobian():
    encoder = _network()
    rng = torch.Generator().manual_seed(0)
    points = torch.rand(5, 1, 6, 6, generator=rng, dtype=torch.float64)
    expected = torch.zeros(36, 36, dtype=torch.float64)
    for point in points:
        rows = torch.autograd.functional.jacobian(lambda x: encoder(x[None])[0], point)
        rows = rows.reshape(-1, 36)
        expected += rows.T @ rows / len(points)
    for chunk in (2, 32):
        torch.testing.assert_close(_dense(ExpectedGram(encoder, points, chunk)), expected)


def test_matrix_free_agrees_with_dense_within_its_error():
    encoder = _network()
    rng = torch.Generator().manual_seed(0)
    gram = ExpectedGram(encoder, torch.rand(8, 1, 8, 8, generator=rng, dtype=torch.float64))
    exact = _spectrum_bound(_dense(gram), 0.05)
    found = SpectrumQuadrature(gram, rng, probes=24).bound(0.05)
    assert found.standard_error < 0.1 * exact
    assert abs(found.value - exact) < 4 * found.standard_error
    with pytest.raises(ValueError, match="two probes"):
        SpectrumQuadrature(gram, rng, probes=1)


def test_more_lanczos_steps_only_raise_the_bound():
    encoder = _network()
    rng = torch.Generator().manual_seed(0)
    gram = ExpectedGram(encoder, torch.rand(4, 1, 8, 8, generator=rng, dtype=torch.float64))
    values = [
        SpectrumQuadrature(gram, torch.Generator().manual_seed(1), probes=4, lanczos_steps=steps)
        .bound(0.02)
        .value
        for steps in (1, 2, 4, 8, 64)
    ]
    assert all(low <= high + 1e-12 for low, high in itertools.pairwise(values))
    assert values[0] < 0.9 * values[-1]


def test_smoothing_has_the_stated_deviation():
    images = torch.full((50, 1, 16, 16), 0.5)
    noise = error_bounds.smoothed(images, torch.Generator().manual_seed(0)) - images
    assert float(noise.std()) == pytest.approx(0.1, rel=0.05)


def test_the_conservative_bound_is_three_errors_lower_and_never_negative():
    assert error_bounds.BoundEstimate(0.008, 0.001, 4).conservative == pytest.approx(0.005)
    assert error_bounds.BoundEstimate(0.002, 0.001, 4).conservative == 0.0


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
