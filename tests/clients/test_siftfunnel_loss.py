"""SiftFunnel's loss terms against slow references and the known bias of its estimator."""

import numpy as np
import pytest
import torch
from small import make_batch

from clients.defences.siftfunnel import (
    SiftFunnel,
    SiftFunnelOptions,
    channel_redundancy,
    distance_correlation_squared,
)


def slow_dcor_squared(x, z):
    def centred(samples):
        n = len(samples)
        d = np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                d[i, j] = np.sqrt(((samples[i] - samples[j]) ** 2).sum() + 1e-10)
        out = np.zeros_like(d)
        for i in range(n):
            for j in range(n):
                out[i, j] = d[i, j] - d[i].mean() - d[:, j].mean() + d.mean()
        return out

    a, b = centred(x), centred(z)
    return (a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean())


def test_distance_correlation_against_loops():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(9, 12)), rng.normal(size=(9, 5))
    found = distance_correlation_squared(torch.tensor(x), torch.tensor(z))
    assert float(found) == pytest.approx(slow_dcor_squared(x, z), rel=1e-9)


def test_distance_correlation_of_itself_is_one_and_of_a_constant_zero():
    x = torch.randn(16, 3, 4, 4)
    assert float(distance_correlation_squared(x, 3 * x + 1)) == pytest.approx(1.0, abs=1e-5)
    assert float(distance_correlation_squared(x, torch.ones(16, 2))) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(("dimensions", "expected"), [(1, 0.15), (768, 0.98)])
def test_known_bias_on_independent_gaussians(dimensions, expected):
    # The published loss uses the V-statistic on batches of 128, which is far from 0 there.
    rng = torch.Generator().manual_seed(0)
    values = [
        float(
            distance_correlation_squared(
                torch.randn(128, 3072, generator=rng), torch.randn(128, dimensions, generator=rng)
            )
        )
        for _ in range(3)
    ]
    # dCor is the root of dCor^2; the published figures are of either, within rounding.
    assert min(abs(np.mean(values) - expected), abs(np.sqrt(np.mean(values)) - expected)) < 0.03


def test_distance_correlation_has_finite_gradients_for_equal_samples():
    z = torch.zeros(6, 4, requires_grad=True)
    distance_correlation_squared(torch.randn(6, 8), z).backward()
    assert torch.isfinite(z.grad).all()


def test_channel_redundancy_against_numpy():
    z = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    reference = np.mean([np.square(np.corrcoef(one.reshape(4, -1))).mean() for one in z.numpy()])
    assert float(channel_redundancy(z)) == pytest.approx(reference, rel=1e-6)


def test_dead_channels_lower_the_redundancy():
    # Twelve uncorrelated live channels: the diagonal alone gives 1/12; all dead: 0.
    z = torch.randn(8, 12, 64, 64)
    assert float(channel_redundancy(z)) == pytest.approx(1 / 12, abs=0.003)
    assert float(channel_redundancy(torch.ones(8, 12, 8, 8))) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("side", "percent"), [(8, 3.2), (4, 13.8)])
def test_released_form_of_the_redundancy_against_numpy(side, percent):
    z = torch.randn(3, 4, side, side, dtype=torch.float64)
    flat = z.numpy().reshape(3, 4, -1)
    deviations = flat - flat.mean(axis=2, keepdims=True)
    stds = flat.std(axis=2, ddof=1)
    covariances = deviations @ deviations.transpose(0, 2, 1) / side**2
    released = np.square(covariances / (stds[:, :, None] * stds[:, None, :])).mean()
    assert float(channel_redundancy(z, unbiased=True)) == pytest.approx(released, rel=1e-6)
    assert float(channel_redundancy(z)) / released - 1 == pytest.approx(percent / 100, abs=5e-4)


def test_published_exact_penalises_the_tensor_before_the_funnel_unless_told_otherwise():
    assert SiftFunnelOptions().regularise == "wire"
    assert SiftFunnelOptions(published="exact").regularise == "pre_funnel"
    assert SiftFunnelOptions(published="exact", regularise="wire").regularise == "wire"
    x, z, pre = torch.rand(5, 1, 8, 8), torch.randn(5, 3, 4, 4), torch.randn(5, 6, 4, 4)
    exact = SiftFunnel(SiftFunnelOptions(published="exact", beta=0.0, sparsity=0.0, gamma=3.0))
    expected = 3.0 * channel_redundancy(pre, unbiased=True)
    torch.testing.assert_close(exact.penalty(make_batch(x, z, pre)), expected)


def test_smoothed_targets():
    defence = SiftFunnel(SiftFunnelOptions(smoothing=0.25))
    targets = defence.targets(torch.tensor([2, 0]), 4)
    expected = torch.tensor([[1 / 12, 1 / 12, 0.75, 1 / 12], [0.75, 1 / 12, 1 / 12, 1 / 12]])
    torch.testing.assert_close(targets, expected)


def test_penalty_is_the_weighted_sum_on_the_chosen_tensor():
    x, z, pre = torch.rand(5, 1, 8, 8), torch.randn(5, 3, 4, 4), torch.randn(5, 6, 4, 4)
    wire = SiftFunnel(SiftFunnelOptions(beta=2.0, gamma=0.5, sparsity=0.1))
    expected = (
        2.0 * distance_correlation_squared(x, z)
        + 0.1 * z.abs().mean()
        + 0.5 * channel_redundancy(z)
    )
    torch.testing.assert_close(wire.penalty(make_batch(x, z, pre)), expected)
    before = SiftFunnel(SiftFunnelOptions(regularise="pre_funnel"))
    assert float(before.penalty(make_batch(x, z, pre))) == pytest.approx(
        float(SiftFunnel(SiftFunnelOptions()).penalty(make_batch(x, pre)))
    )
    with pytest.raises(ValueError, match="pre_funnel"):
        before.penalty(make_batch(x, z))
