"""Bootstrap intervals: coverage, edge cases, pairing, reproducibility."""

import numpy as np
import pytest

from testbed.privacy import intervals
from testbed.privacy.intervals import bootstrap_interval, paired_difference


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
    assert bootstrap_interval(np.array([]), 100, 0).as_dict() == {
        "value": None,
        "low": None,
        "high": None,
        "n": 0,
    }
    single = bootstrap_interval(np.array([0.5]), 100, 0)
    assert single.as_dict() == {"value": 0.5, "low": None, "high": None, "n": 1}


def test_not_finite_values_are_refused():
    with pytest.raises(ValueError, match="finite"):
        bootstrap_interval(np.array([1.0, np.nan]), 100, 0)


def test_same_seed_same_interval_and_another_seed_another():
    sample = np.random.default_rng(0).random(30)
    assert bootstrap_interval(sample, 200, 7) == bootstrap_interval(sample, 200, 7)
    assert bootstrap_interval(sample, 200, 7) != bootstrap_interval(sample, 200, 8)
    assert bootstrap_interval(sample, 200, 7) != bootstrap_interval(sample, 200, 7, 1)


def test_blocks_change_nothing(monkeypatch):
    sample = np.random.default_rng(0).random(30)
    whole = intervals.bootstrap_means(sample, 50, 0)
    monkeypatch.setattr(intervals, "_MAX_DRAWS", 100)
    np.testing.assert_allclose(intervals.bootstrap_means(sample, 50, 0), whole)


def test_paired_difference_removes_what_victims_share():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 10, 100)
    first, second = shared + 1.0 + rng.normal(0, 0.1, 100), shared
    paired = paired_difference(first, second, 500, 0)
    assert 0.9 < paired.low < paired.value < paired.high < 1.1
    with pytest.raises(ValueError, match="100 and 99"):
        paired_difference(first, second[:-1], 500, 0)


def test_resamples_are_shared_by_arrays_of_one_length():
    sample = np.random.default_rng(0).random(20)
    shifted = intervals.bootstrap_means(sample + 1.0, 50, 3)
    np.testing.assert_allclose(shifted - 1.0, intervals.bootstrap_means(sample, 50, 3))
