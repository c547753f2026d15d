"""Intervals: published values, coverage, clusters, edge cases, reproducibility."""

import numpy as np
import pytest
from scipy import stats

from testbed.privacy import intervals
from testbed.privacy.intervals import (
    clopper_pearson,
    mean_interval,
    share_difference_interval,
    share_interval,
)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        # Clopper and Pearson as tabulated by Newcombe, Statistics in Medicine 17, 1998, table I.
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
        (77, 77, 0.9532, 1.0),
    ],
)
def test_shares_have_the_published_intervals(hits, count, low, high):
    values = np.arange(count) < hits
    found = share_interval(values)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert (found.value, found.n) == (hits / count, count)
    exact = stats.binomtest(hits, count).proportion_ci(method="exact")
    assert clopper_pearson(hits, count) == pytest.approx(tuple(exact))


def test_all_of_77_is_not_certainty():
    """The bootstrap said 100.0 to 100.0."""
    found = share_interval(np.ones(77))
    assert (found.low, found.high) == (pytest.approx(0.025 ** (1 / 77)), 1.0)
    none = share_difference_interval(np.zeros(77))
    assert none.low == pytest.approx(-0.0252, abs=2e-4)
    assert none.high == -none.low


def test_paired_differences_of_shares_have_the_published_interval():
    """Agresti and Min 2005: (b - c) / (n + 2), half a pair in each cell; b = 20, c = 5 of 80."""
    values = np.repeat([1.0, -1.0, 0.0], [20, 5, 55])
    found = share_difference_interval(values)
    centre = 15 / 82
    half = stats.t.ppf(0.975, 79) * np.sqrt((26 - 15**2 / 82) / 82**2)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))
    assert found.value == pytest.approx(15 / 80)


def test_images_of_one_person_count_together():
    """Ten copies of every observation tell no more than one."""
    hits = np.arange(40) < 30
    alone = share_interval(hits)
    copies = share_interval(np.repeat(hits, 10), np.repeat(np.arange(40), 10))
    assert copies.low == pytest.approx(alone.low, abs=0.02)
    assert copies.high == pytest.approx(alone.high, abs=0.02)
    wrong = share_interval(np.repeat(hits, 10))
    assert wrong.high - wrong.low < 0.4 * (alone.high - alone.low)
    every = share_interval(np.ones(400), np.repeat(np.arange(40), 10))
    assert every.low == pytest.approx(share_interval(np.ones(40)).low)
    assert share_interval(np.ones(400), np.repeat(np.arange(40), 10), constant_count=400).low > 0.99

    errors = np.random.default_rng(0).lognormal(0.0, 0.5, 40)
    plain = mean_interval(errors, 2000, 0)
    grouped = mean_interval(np.repeat(errors, 10), 2000, 0, clusters=np.repeat(np.arange(40), 10))
    assert grouped.low == pytest.approx(plain.low, rel=1e-6)
    assert grouped.high == pytest.approx(plain.high, rel=1e-6)

    changes = np.repeat([1.0, -1.0, 0.0], [10, 2, 28])
    one = share_difference_interval(changes)
    many = share_difference_interval(np.repeat(changes, 10), np.repeat(np.arange(40), 10))
    assert many.high - many.low == pytest.approx(one.high - one.low, rel=0.1)


def test_clusters_of_unequal_size_have_the_error_of_their_ratio():
    """The linearised error of a ratio of sums, as survey statistics has it (Cochran 1977, 6.2)."""
    values = np.array([1.0, 2.0, 4.0, 8.0, 9.0, 3.0])
    clusters = np.array([0, 0, 1, 2, 2, 2])
    mean = values.mean()
    sums = np.array([3.0 - 2 * mean, 4.0 - mean, 20.0 - 3 * mean])
    error = np.sqrt(3 / 2 * np.square(sums).sum()) / 6
    found = mean_interval(values, 100, 0, clusters=clusters, difference=True)
    assert found.high - mean == pytest.approx(stats.t.ppf(0.975, 2) * error)
    assert mean - found.low == pytest.approx(stats.t.ppf(0.975, 2) * error)


def test_skewed_means_reach_further_up_than_down():
    sample = np.random.default_rng(0).lognormal(0.0, 1.0, 60)
    found = mean_interval(sample, 2000, 0)
    assert found.high - found.value > 1.3 * (found.value - found.low)
    even = np.random.default_rng(1).normal(3.0, 2.0, 2000)
    found = mean_interval(even, 2000, 0)
    half_width = 1.96 * even.std() / np.sqrt(2000)
    assert found.high - found.value == pytest.approx(half_width, rel=0.1)
    assert found.value - found.low == pytest.approx(half_width, rel=0.1)


def test_errors_are_not_negative_and_differences_may_be():
    few = np.array([0.01, 0.5, 0.02])
    assert mean_interval(few, 100, 0).low == 0.0
    assert mean_interval(few, 100, 0, difference=True).low < 0.0


def test_none_and_one_observation_have_no_bounds():
    for make in (
        lambda values: mean_interval(values, 100, 0),
        share_interval,
        share_difference_interval,
    ):
        nothing = make(np.array([]))
        assert nothing.model_dump() == {"value": None, "low": None, "high": None, "n": 0}
        single = make(np.array([1.0]))
        assert single.model_dump() == {"value": 1.0, "low": None, "high": None, "n": 1}
        with pytest.raises(ValueError, match="finite"):
            make(np.array([1.0, np.nan]))
    together = np.zeros(5)
    assert mean_interval(np.arange(5.0), 100, 0, clusters=together).low is None
    assert share_interval(np.ones(5), together).low is None
    with pytest.raises(ValueError, match="0 and 1"):
        share_interval(np.array([0.5, 1.0]))


def test_a_constant_has_an_interval_without_width():
    found = mean_interval(np.full(30, 100.0), 200, 0)
    assert (found.low, found.high) == (100.0, 100.0)


def test_same_seed_same_interval_and_another_seed_another():
    sample = np.random.default_rng(0).random(30)
    assert mean_interval(sample, 200, 7) == mean_interval(sample, 200, 7)
    assert mean_interval(sample, 200, 7) != mean_interval(sample, 200, 8)
    assert mean_interval(sample, 200, 7) != mean_interval(sample, 200, 7, 1)


def test_blocks_have_no_effect(monkeypatch):
    sample = np.random.default_rng(0).random(30)
    whole = mean_interval(sample, 100, 0)
    monkeypatch.setattr(intervals, "_MAX_DRAWS", 100)
    assert mean_interval(sample, 100, 0) == whole
