"""Leakage measures against brute force and closed forms."""

import math

import numpy as np
import pytest

from testbed.privacy import leakage


def _gaussian_dcor(rho):
    """Szekely, Rizzo, Bakirov 2007, theorem 7: squared dCor of a bivariate normal."""
    root = math.sqrt
    above = (
        rho * math.asin(rho) + root(1 - rho**2) - rho * math.asin(rho / 2) - root(4 - rho**2) + 1
    )
    return above / (1 + math.pi / 3 - root(3))


def _pair(rho, count=1500, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 1))
    return x, rho * x + math.sqrt(1 - rho**2) * rng.normal(size=(count, 1))


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_dcor_of_gaussians(rho):
    x, z = _pair(rho)
    assert leakage.distance_correlation_u(x, z) == pytest.approx(_gaussian_dcor(rho), abs=0.03)
    assert leakage.distance_correlation_v(x, z) == pytest.approx(_gaussian_dcor(rho), abs=0.03)


def _brute_v(x, z):
    n = len(x)

    def centred(s):
        d = [[math.dist(s[i], s[j]) for j in range(n)] for i in range(n)]
        row = [sum(d[i]) / n for i in range(n)]
        grand = sum(row) / n
        return [[d[i][j] - row[i] - row[j] + grand for j in range(n)] for i in range(n)]

    a, b = centred(x), centred(z)
    pairs = [(i, j) for i in range(n) for j in range(n)]
    ab, aa, bb = (sum(p[i][j] * q[i][j] for i, j in pairs) for p, q in ((a, b), (a, a), (b, b)))
    return ab / math.sqrt(aa * bb)


def _brute_u(x, z):
    n = len(x)

    def centred(s):
        d = [[math.dist(s[i], s[j]) for j in range(n)] for i in range(n)]
        row = [sum(d[i]) for i in range(n)]
        total = sum(row)
        return [
            [
                0.0
                if i == j
                else d[i][j] - row[i] / (n - 2) - row[j] / (n - 2) + total / ((n - 1) * (n - 2))
                for j in range(n)
            ]
            for i in range(n)
        ]

    a, b = centred(x), centred(z)
    pairs = [(i, j) for i in range(n) for j in range(n)]
    ab, aa, bb = (sum(p[i][j] * q[i][j] for i, j in pairs) for p, q in ((a, b), (a, a), (b, b)))
    return ab / math.sqrt(aa * bb)


def test_dcor_equals_brute_force():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(12, 5))
    z = np.tanh(x[:, :3]) + 0.5 * rng.normal(size=(12, 3))
    assert leakage.distance_correlation_v(x, z) == pytest.approx(_brute_v(x, z), abs=1e-10)
    assert leakage.distance_correlation_u(x, z) == pytest.approx(_brute_u(x, z), abs=1e-10)


def test_v_statistic_is_biased_upwards_and_u_is_not():
    rng = np.random.default_rng(0)
    trials = [(rng.normal(size=(64, 200)), rng.normal(size=(64, 200))) for _ in range(20)]
    assert np.mean([leakage.distance_correlation_v(x, z) for x, z in trials]) > 0.8
    assert abs(np.mean([leakage.distance_correlation_u(x, z) for x, z in trials])) < 0.02


def test_dcor_is_one_for_a_similarity_and_zero_for_a_constant():
    x, _ = _pair(0.0, 40)
    constant = np.full((40, 3), 0.1, dtype=np.float32)
    for dcor in (leakage.distance_correlation_v, leakage.distance_correlation_u):
        assert dcor(x, 5.0 - 3.0 * x) == pytest.approx(1.0, abs=1e-9)
        assert dcor(x, constant) == 0.0
    with pytest.raises(ValueError, match="at least 4"):
        leakage.distance_correlation_u(x[:3], x[:3])


@pytest.mark.parametrize("count", [30, 200])
def test_spectrum_equals_the_covariance(count):
    z = np.random.default_rng(1).normal(size=(count, 3, 4, 5)).astype(np.float32)
    full = np.linalg.eigvalsh(np.cov(z.reshape(count, -1).astype(float).T))
    spectrum = leakage.covariance_spectrum(z)
    kept = min(len(spectrum), 60)
    np.testing.assert_allclose(spectrum[-kept:], full[-kept:], atol=1e-9)


def test_effective_ranks_by_hand():
    equal = np.array([0.0, 2.0, 2.0, 2.0])
    assert leakage.participation_ratio(equal) == pytest.approx(3.0)
    assert leakage.spectral_rank(equal) == pytest.approx(3.0)
    unequal = np.array([1.0, 3.0])
    assert leakage.participation_ratio(unequal) == pytest.approx(1.6)
    assert leakage.spectral_rank(unequal) == pytest.approx(4 / 3**0.75)
    nothing = np.zeros(3)
    assert leakage.participation_ratio(nothing) == leakage.spectral_rank(nothing) == 0.0


def test_live_channels_are_relative_to_the_largest_deviation():
    z = np.random.default_rng(0).normal(size=(50, 4, 3, 3)).astype(np.float32)
    z *= np.array([1.0, 0.5, 0.02, 0.001], dtype=np.float32)[:, None, None]
    assert leakage.live_channels(z) == 3
    assert leakage.live_channels(1e-6 * z) == 3
    assert leakage.live_channels(np.full_like(z, 0.1)) == 0
    assert leakage.live_channels(np.zeros_like(z)) == 0


def test_measures_of_one_arm():
    rng = np.random.default_rng(0)
    images = rng.random((40, 1, 8, 8), dtype=np.float32)
    features = np.concatenate([2.0 * images, np.zeros_like(images)], axis=1)
    found = leakage.measure_leakage(images, features, samples=32)
    assert (found.channels, found.live_channels, found.samples) == (2, 1, 32)
    assert found.dcor_v == pytest.approx(1.0)
    assert found.dcor_u == pytest.approx(1.0)
    assert found.mean_abs_feature == pytest.approx(images[:32].mean(), rel=1e-5)
    assert found.hsic == pytest.approx(1.0)
    assert found.nonzero_per_sample == 64.0
    assert 1.0 < found.participation_ratio <= 31.0
    assert found.participation_ratio < found.spectral_rank <= 31.0


def test_measures_that_do_not_exist_are_none():
    images = np.zeros((8, 1, 8, 8), dtype=np.float32)
    features = np.full((8, 2, 2, 2), np.nan, dtype=np.float32)
    found = dict(vars(leakage.measure_leakage(images, features)))
    assert (found.pop("channels"), found.pop("samples")) == (2, 8)
    assert set(found.values()) == {None}
    assert leakage.measure_leakage(images[:3], np.ones_like(features)[:3]).dcor_u is None
    with pytest.raises(ValueError, match="pair up"):
        leakage.measure_leakage(images, features[:3])
