"""Bootstrap intervals: coverage, edge cases, pairing, reproducibility."""

import numpy as np
import pytest

from testbed.privacy import intervals
from testbed.privacy.intervals import bootstrap_interval, hierarchical_interval


def test_coverage_is_close_to_95_percent():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(400):
        sample = rng.exponential(1.0, 80)
        interval = bootstrap_interval(sample, 400, trial)
        hits += interval.low <= 1.0 <= interval.high
    # Binomial standard error 1.1 %; the percentile interval of a skewed mean falls a little short.
    assert 0.90 <= hits / 400 <= 0.98


def test_width_agrees_with_the_normal_approximation():
    sample = np.random.default_rng(1).normal(3.0, 2.0, 2000)
    interval = bootstrap_interval(sample, 2000, 0)
    half_width = 1.96 * sample.std() / np.sqrt(2000)
    assert interval.value == pytest.approx(sample.mean())
    assert interval.high - interval.value == pytest.approx(half_width, rel=0.1)
    assert interval.value - interval.low == pytest.approx(half_width, rel=0.1)


def test_none_and_one_observation_have_no_bounds():
    none = bootstrap_interval(np.array([]), 100, 0)
    assert none.model_dump() == {"value": None, "low": None, "high": None, "n": 0}
    single = bootstrap_interval(np.array([0.5]), 100, 0)
    assert single.model_dump() == {"value": 0.5, "low": None, "high": None, "n": 1}


def test_not_finite_values_are_refused():
    with pytest.raises(ValueError, match="finite"):
        bootstrap_interval(np.array([1.0, np.nan]), 100, 0)


def test_same_seed_same_interval_and_another_seed_another():
    sample = np.random.default_rng(0).random(30)
    assert bootstrap_interval(sample, 200, 7) == bootstrap_interval(sample, 200, 7)
    assert bootstrap_interval(sample, 200, 7) != bootstrap_interval(sample, 200, 8)
    assert bootstrap_interval(sample, 200, 7) != bootstrap_interval(sample, 200, 7, 1)


def test_blocks_have_no_effect(monkeypatch):
    sample = np.random.default_rng(0).random(30)
    whole = intervals.bootstrap_means(sample, 50, 0)
    monkeypatch.setattr(intervals, "_MAX_DRAWS", 100)
    np.testing.assert_allclose(intervals.bootstrap_means(sample, 50, 0), whole)


def test_resamples_are_shared_by_arrays_of_one_length():
    sample = np.random.default_rng(0).random(20)
    shifted = intervals.bootstrap_means(sample + 1.0, 50, 3)
    np.testing.assert_allclose(shifted - 1.0, intervals.bootstrap_means(sample, 50, 3))


def test_hierarchical_intervals_widen_where_devices_differ():
    rng = np.random.default_rng(3)
    devices = np.repeat(np.arange(12), 20)
    independent = rng.normal(0.0, 1.0, 240)
    clustered = rng.normal(0.0, 1.0, 12)[devices] + 0.1 * rng.normal(size=240)

    def widths(values):
        flat = bootstrap_interval(values, 600, 0)
        grouped = hierarchical_interval(values, devices, 600, 0)
        assert grouped.value == pytest.approx(values.mean())
        return (grouped.high - grouped.low) / (flat.high - flat.low)

    assert widths(clustered) > 2.0
    assert 0.6 < widths(independent) < 1.8


def test_hierarchical_interval_covers_the_mean_over_devices():
    rng = np.random.default_rng(4)
    hits = 0
    for trial in range(120):
        devices = np.repeat(np.arange(25), 6)
        values = rng.normal(0.0, 1.0, 25)[devices] + rng.normal(0.0, 1.0, 150)
        interval = hierarchical_interval(values, devices, 200, trial)
        hits += interval.low <= 0.0 <= interval.high
    # Binomial standard error 2 %; percentile intervals of 25 groups fall a little short of 95 %.
    assert hits / 120 > 0.85


def test_hierarchical_edge_cases():
    one = hierarchical_interval(np.array([2.0]), np.zeros(1, int), 100, 0)
    assert (one.value, one.low, one.n) == (2.0, None, 1)
    assert hierarchical_interval(np.empty(0), np.empty(0, int), 100, 0).value is None
    with pytest.raises(ValueError, match="finite"):
        hierarchical_interval(np.array([np.nan, 1.0]), np.zeros(2, int), 100, 0)
    same = [hierarchical_interval(np.arange(9.0), np.arange(9) // 3, 100, 5) for _ in range(2)]
    assert same[0] == same[1]
