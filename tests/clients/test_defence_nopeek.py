"""NoPeek's penalty against an independent slow distance correlation."""

import math

import numpy as np
import pytest
import torch
from small import make_batch

from clients.defences.nopeek import FEW_SAMPLES, pairwise_distances
from testbed.core.registries import DEFENCES


def slow_distance_correlation(x, z):
    """Return dCor by the definition with one row and column mean at a time (Szekely 2007)."""

    def centred(samples):
        n = len(samples)
        d = [[math.dist(samples[i], samples[j]) for j in range(n)] for i in range(n)]
        rows = [sum(row) / n for row in d]
        grand = sum(rows) / n
        return [[d[i][j] - rows[i] - rows[j] + grand for j in range(n)] for i in range(n)]

    a, b = np.array(centred(x)), np.array(centred(z))
    covariance = math.sqrt((a * b).mean())
    variances = math.sqrt((a * a).mean()), math.sqrt((b * b).mean())
    return covariance / math.sqrt(variances[0] * variances[1])


def test_penalty_is_alpha_times_the_distance_correlation():
    x = torch.rand(8, 1, 3, 3, dtype=torch.float64)
    z = torch.randn(8, 2, 2, 2, dtype=torch.float64)
    expected = slow_distance_correlation(x.flatten(1).tolist(), z.flatten(1).tolist())
    # Within the 1e-5 that keeps the distance of a sample to itself differentiable.
    plain = DEFENCES.create("nopeek", {"alpha": 3.0}).penalty(make_batch(x, z))
    squared = DEFENCES.create("nopeek", {"alpha": 3.0, "squared": True}).penalty(make_batch(x, z))
    assert float(plain) == pytest.approx(3.0 * expected, rel=1e-5)
    assert float(squared) == pytest.approx(3.0 * expected**2, rel=1e-5)


@pytest.mark.parametrize("samples", [FEW_SAMPLES, FEW_SAMPLES + 1, 128])
def test_distances_of_any_number_of_samples_keep_small_distances_and_their_gradients(samples):
    rng = torch.Generator().manual_seed(samples)
    x = 0.5 + 0.3 * torch.rand(samples, 3, 16, 16, generator=rng)
    x[1] = x[0]  # twice the same image, and one that hardly differs: cancellation shows here
    x[2] = x[0]
    x[2, 0, 0, 0] += 2e-4
    x.requires_grad_()
    weights = torch.rand(samples, samples, generator=rng)
    distances = pairwise_distances(x)
    (gradient,) = torch.autograd.grad((weights * distances).sum(), x)
    assert distances.dtype == gradient.dtype == torch.float32
    exact = x.detach().double().requires_grad_()
    differences = exact.flatten(1)[:, None] - exact.flatten(1)[None]
    wanted = (differences.square().sum(dim=2) + 1e-10).sqrt()
    (wanted_gradient,) = torch.autograd.grad((weights.double() * wanted).sum(), exact)
    assert float(wanted[0, 2]) == pytest.approx(2e-4, rel=0.01)
    assert torch.allclose(distances.double(), wanted, rtol=1e-5, atol=1e-9)
    assert torch.allclose(gradient.double(), wanted_gradient, rtol=1e-4, atol=2e-5)


def test_features_that_equal_the_image_have_the_full_penalty():
    x = torch.rand(16, 1, 4, 4)
    assert float(
        DEFENCES.create("nopeek", {"alpha": 2.0}).penalty(make_batch(x, x))
    ) == pytest.approx(2.0, rel=1e-4)


def test_descending_the_penalty_lowers_the_dependence():
    x = torch.rand(24, 6)
    defence = DEFENCES.create("nopeek", {})
    mix = torch.randn(6, 3).requires_grad_()
    before = float(defence.penalty(make_batch(x, torch.relu(x @ mix))))
    for _ in range(60):
        (gradient,) = torch.autograd.grad(
            defence.penalty(make_batch(x, torch.relu(x @ mix))), [mix]
        )
        mix = (mix - 0.5 * gradient).detach().requires_grad_()
    assert float(defence.penalty(make_batch(x, torch.relu(x @ mix)))) < 0.8 * before


def test_constant_features_have_no_penalty_and_finite_gradients():
    z = torch.zeros(6, 4, requires_grad=True)
    penalty = DEFENCES.create("nopeek", {}).penalty(make_batch(torch.rand(6, 8), z))
    penalty.backward()
    assert float(penalty) == pytest.approx(0.0, abs=1e-3)
    assert torch.isfinite(z.grad).all()


def test_features_are_sent_unchanged():
    z = torch.randn(3, 2, 2, 2)
    assert torch.equal(DEFENCES.create("nopeek", {}).release(z, torch.Generator()), z)
