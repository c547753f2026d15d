"""HSIC and mutual-information bounds against brute force and Gaussian closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch

from testbed.privacy import hsic, mutual_information
from testbed.privacy.mutual_information import (
    CriticTraining,
    donsker_varadhan,
    estimate_information,
    info_nce,
)


def _gaussian_pairs(rho, dimension, count=2400, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, dimension))
    z = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=(count, dimension))
    return x.astype(np.float32), z.astype(np.float32)


def _information(rho, dimension):
    return -0.5 * dimension * math.log(1 - rho**2)


# HSIC ------------------------------------------------------------------------------------------


def test_unbiased_hsic_is_the_mean_over_distinct_quadruples():
    """Song et al. 2012: HSIC as a U-statistic, summed the slow way over tuples without repeats."""
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(6, 2)), rng.normal(size=(6, 2))
    k, m = hsic.gaussian_kernel(x, 1.0), hsic.gaussian_kernel(x + z, 1.5)
    pairs = np.mean([k[i, j] * m[i, j] for i, j in itertools.permutations(range(6), 2)])
    triples = np.mean([k[i, j] * m[i, q] for i, j, q in itertools.permutations(range(6), 3)])
    fours = np.mean([k[i, j] * m[q, r] for i, j, q, r in itertools.permutations(range(6), 4)])
    assert hsic.hsic_unbiased(k, m) == pytest.approx(pairs + fours - 2 * triples, abs=1e-12)


def test_hsic_of_independent_gaussians_is_zero_on_average():
    k = []
    for seed in range(60):
        x, z = _gaussian_pairs(0.0, 5, 40, seed)
        k.append(hsic.hsic_unbiased(hsic.gaussian_kernel(x), hsic.gaussian_kernel(z)))
    error = np.std(k) / math.sqrt(60)
    assert abs(np.mean(k)) < 4 * error


def test_hsic_of_correlated_gaussians_in_closed_form():
    """Gaussian kernels of width 1 on standard normals: every expectation is a Gaussian integral."""
    rho = 0.8
    x, z = _gaussian_pairs(rho, 1, 1500)
    found = hsic.hsic_unbiased(hsic.gaussian_kernel(x, 1.0), hsic.gaussian_kernel(z, 1.0))
    # E exp(-u'u/2) = det(I + C)^(-1/2) for u ~ N(0, C).
    joint = 1 / math.sqrt(9 - 4 * rho**2)  # C of (x - x', z - z')
    crossed = 1 / math.sqrt(9 - rho**2)  # C of (x - x', z - z'')
    assert found == pytest.approx(joint + 1 / 3 - 2 * crossed, abs=0.004)


def test_normalised_hsic_of_copies_constants_and_scales():
    x, z = _gaussian_pairs(0.7, 3, 200)
    assert hsic.normalised_hsic(x, x) == pytest.approx(1.0)
    assert hsic.normalised_hsic(x, np.ones_like(z)) == 0.0
    plain = hsic.normalised_hsic(x, z)
    assert 0.1 < plain < 0.9
    assert hsic.normalised_hsic(x, 1000.0 * z) == pytest.approx(plain, rel=1e-4)
    with pytest.raises(ValueError, match="at least 4"):
        hsic.hsic_unbiased(np.eye(3), np.eye(3))


# Mutual information ----------------------------------------------------------------------------


def test_bounds_by_hand():
    scores = torch.tensor([[2.0, 0.0], [1.0, 4.0]])
    expected = 3.0 - math.log((1.0 + math.e) / 2)
    assert float(donsker_varadhan(scores)) == pytest.approx(expected)
    rows = (math.exp(2) / (math.exp(2) + 1), math.exp(4) / (math.exp(4) + math.e))
    assert float(info_nce(scores)) == pytest.approx(math.log(2) + np.mean(np.log(rows)), abs=1e-6)


def test_the_optimal_critic_gives_the_true_information():
    rho, count = 0.6, 1500
    x, z = (torch.from_numpy(side).double() for side in _gaussian_pairs(rho, 1, count))
    quadratic = rho**2 * (x**2 + z.T**2) - 2 * rho * x @ z.T
    log_ratio = -quadratic / (2 * (1 - rho**2)) - 0.5 * math.log(1 - rho**2)
    assert float(donsker_varadhan(log_ratio)) == pytest.approx(_information(rho, 1), abs=0.05)
    assert float(info_nce(log_ratio)) == pytest.approx(_information(rho, 1), abs=0.05)


@pytest.mark.parametrize("estimator", ["mine", "infonce"])
def test_gaussian_information_is_found_and_not_exceeded(estimator):
    """0.83 nats; up to 25 % of it may be missed, and the excess is at most sampling error."""
    x, z = _gaussian_pairs(0.75, 2)
    true = _information(0.75, 2)
    found = estimate_information(x, z, estimator, seed=0)
    assert found.held_out == 600
    assert 0.75 * true < found.nats < true + 0.12


@pytest.mark.parametrize("estimator", ["mine", "infonce", "mine_bounded"])
def test_independent_sides_and_constants_have_no_information(estimator):
    x, z = _gaussian_pairs(0.0, 4)
    assert abs(estimate_information(x, z, estimator, seed=0).nats) < 0.1
    constant = np.full((len(x), 2, 3, 3), 0.7, dtype=np.float32)
    assert abs(estimate_information(x, constant, estimator, seed=0).nats) < 0.02


def test_ceilings_hold_for_copies_and_mine_has_none():
    x, _ = _gaussian_pairs(0.0, 16)
    training = CriticTraining(epochs=25)
    nce = estimate_information(x, x, "infonce", 0, training)
    assert nce.ceiling_nats == pytest.approx(math.log(64))
    assert 0.8 * nce.ceiling_nats < nce.nats <= nce.ceiling_nats
    bounded = estimate_information(x, x, "mine_bounded", 0, training)
    assert 0.7 < bounded.nats < bounded.ceiling_nats == 1.0
    assert estimate_information(x, x, "mine", 0, training).ceiling_nats is None


def test_same_seed_same_estimate_and_no_global_draw():
    x, z = _gaussian_pairs(0.5, 2, 600)
    state = torch.random.get_rng_state()
    training = CriticTraining(epochs=3)
    first = estimate_information(x, z, "mine", 1, training)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first == estimate_information(x, z, "mine", 1, training)
    assert first != estimate_information(x, z, "mine", 2, training)


def test_too_few_pairs_or_broken_features_give_no_number():
    x, z = _gaussian_pairs(0.5, 2, 200)
    few = estimate_information(x, z, "mine", 0)
    assert (few.nats, few.reason) == (None, "too few pairs: 200 of the 256 required")
    x, z = _gaussian_pairs(0.5, 2, 600)
    z[0, 0] = np.nan
    broken = estimate_information(x, z, "infonce", 0)
    assert broken.nats is None
    assert "not finite" in broken.reason
    x, z = _gaussian_pairs(0.5, 2, CriticTraining().fewest_pairs)
    assert "too few" not in estimate_information(x, z, "mine", 0, CriticTraining(epochs=1)).reason
    with pytest.raises(ValueError, match="pair up"):
        estimate_information(x, z[1:], "mine", 0)


def _leaky(noise=0.0, count=400):
    """Return pairs of which the second side is the first in eight copies, with noise."""
    x, _ = _gaussian_pairs(0.0, 16, count)
    z = np.repeat(x.reshape(count, -1), 8, axis=1)
    return x, (z + noise * np.random.default_rng(3).normal(size=z.shape)).astype(np.float32)


@pytest.mark.parametrize("estimator", ["mine", "infonce", "mine_bounded"])
def test_a_critic_that_failed_has_no_bound(estimator):
    """A training that diverges gave the leakiest features the lowest bound, below 0 with MINE."""
    wild = CriticTraining(epochs=2, learning_rate=30.0)
    found = estimate_information(*_leaky(), estimator, 0, wild)
    assert found.nats is None
    assert found.reason.startswith("its critic failed")


def test_a_critic_that_has_not_learned_is_below_the_linear_one():
    idle = CriticTraining(epochs=1, learning_rate=1e-7)
    found = estimate_information(*_leaky(), "infonce", 0, idle)
    assert found.nats is None
    assert "a linear critic in closed form finds at least 4" in found.reason
    # Without anything to find, the same critic has found nothing, which is right.
    x, z = _gaussian_pairs(0.0, 4, 400)
    assert estimate_information(x, z, "infonce", 0, idle).nats == pytest.approx(0.0, abs=0.05)


def test_the_linear_critic_finds_gaussian_information_and_none_of_independent_sides():
    for rho in (0.0, 0.5, 0.75):
        x, z = _gaussian_pairs(rho, 2)
        half, rest = len(x) // 2, 3 * len(x) // 4
        sides = [mutual_information._standardised(side, half) for side in (x, z)]
        value, error = mutual_information._closed_form(*sides, half, rest, 64)
        assert value == pytest.approx(_information(rho, 2), abs=0.08)
        assert 0.0 <= error < 0.05


def test_infonce_near_its_ceiling_is_saturated():
    x, _ = _gaussian_pairs(0.0, 16)
    training = CriticTraining(epochs=40)
    near = estimate_information(x, x, "infonce", 0, training)
    assert near.saturated == (near.nats > 0.9 * math.log(64))
    assert near.saturated
    x, z = _gaussian_pairs(0.75, 2)
    assert not estimate_information(x, z, "infonce", 0, training).saturated
