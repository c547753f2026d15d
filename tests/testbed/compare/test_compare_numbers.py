"""Fronts, interpolation, ranking and weakest devices of runs with known answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from runs_fixture import UNDEFENDED, Arm, write_run
from scipy import stats

from testbed.compare.analysis.groups import relative_leakage
from testbed.compare.analysis.matched import place_at
from testbed.compare.analysis.pareto import non_dominated
from testbed.compare.analysis.request_table import Column, RequestTable, resample
from testbed.compare.comparison import compare
from testbed.compare.prose import matched_words, say

POINTS = arrays(
    np.float64, st.tuples(st.integers(1, 12), st.just(2)), elements=st.sampled_from([0, 1, 2, 3.5])
)


def entry(compared, label):
    return compared.measured[compared.labels.index(label)]


def ranked_defence(found, family):
    return next(item for item in found.ranked_defences if item.family == family)


@given(POINTS)
def test_front_is_the_set_of_non_dominated_points(points):
    front = non_dominated(points)
    for index, point in enumerate(points):
        dominated = any((other >= point).all() and (other > point).any() for other in points)
        assert front[index] == (not dominated)
    assert front.any()


def test_unknown_points_neither_join_nor_change_a_front():
    points = np.array([[1.0, np.nan], [0.5, 0.5], [np.nan, 9.0]])
    assert non_dominated(points).tolist() == [False, True, False]


def test_known_front_in_the_runs(compared):
    front = compared.front("accuracy_mse")
    on = [label for label, yes in zip(compared.labels, front.on_front, strict=True) if yes]
    assert on == ["undefended", "noise_1", "noise_2", "noise_3"]
    macs = compared.front("accuracy_macs").on_front
    assert [label for label, yes in zip(compared.labels, macs, strict=True) if yes] == [
        "undefended",
        "nopeek_1",  # its microcontrollers run a smaller front-end
        "narrow",
    ]


def test_estimates_are_those_of_the_rows(compared):
    noise = entry(compared, "noise_2")
    assert noise["accuracy"].shown.value == pytest.approx(0.90)
    assert noise["mse"].shown.value == pytest.approx(0.030)
    assert noise.best.facts.adversary == "strong"
    assert noise.attacks.by_adversary["weak"].mse == pytest.approx(0.045)
    assert noise["mse"].shown.n == 3 * 200
    assert noise["recognisable_share"].shown.value == pytest.approx(
        np.mean(0.95 - 12 * noise.best.scored.scores["mse"] > 0.5)
    )
    assert noise["energy_mj"].shown.value == pytest.approx(3.0)
    assert noise["energy_mj"].shown.n == 3 * 150  # phones publish no power
    assert noise["latency_ms_median"].shown.value == pytest.approx(20.0 * (1 + 99.5 / 200))
    assert entry(compared, "nopeek_1")["macs"].shown.value == pytest.approx(1e6 * (3 + 0.25) / 4)


def test_differences_are_paired_over_the_same_victims(compared):
    difference = compared.differences[compared.labels.index("noise_1")]
    assert difference.accuracy.value == pytest.approx(-0.01)
    assert difference.mse.value == pytest.approx(0.006)
    alone = entry(compared, "noise_1")["accuracy"].shown
    assert difference.accuracy.high - difference.accuracy.low < alone.high - alone.low
    assert compared.differences[compared.reference] is None


@pytest.mark.parametrize(
    ("target", "mse", "reached", "settings"),
    [
        (0.95, None, "not reached", ()),
        (0.94, 0.010, "between", (0,)),
        (0.92, 0.020, "between", (0, 1)),
        (0.90, 0.030, "between", (1,)),
        (0.85, 0.040, "between", (1, 3)),
        (0.80, 0.050, "between", (3,)),
        (0.50, 0.050, "more accurate", (3,)),
    ],
)
def test_interpolation_at_known_points(target, mse, reached, settings):
    accuracy = np.array([0.94, 0.90, 0.85, 0.80, np.nan])
    errors = np.array([0.010, 0.030, 0.020, 0.050, 9.0])  # the third is dominated
    found = place_at(accuracy, errors, target)
    assert found.reached == reached
    assert found.settings == settings
    assert found.mse == (None if mse is None else pytest.approx(mse))


@given(
    arrays(np.float64, 6, elements=st.floats(0, 1)),
    arrays(np.float64, 6, elements=st.floats(0, 1)),
    st.floats(0, 1),
)
def test_interpolation_stays_within_the_settings_and_rises_with_lower_accuracy(
    accuracy, mse, target
):
    found = place_at(accuracy, mse, target)
    assert (found.mse is None) == (accuracy.max() < target)
    if found.mse is not None:
        enough = mse[accuracy >= target]
        assert enough.max() - 1e-12 <= found.mse <= mse.max() + 1e-12
        looser = place_at(accuracy, mse, target / 2).mse
        assert looser >= found.mse - 1e-9


def test_ranking_at_the_references_accuracy_minus_three_points(compared):
    found = compared.matched[0]
    assert found.accuracy == pytest.approx(0.92)
    assert found.below_reference == 0.03
    noise, nopeek, none = (
        ranked_defence(found, name) for name in ("gaussian_noise", "nopeek", "undefended")
    )
    assert [noise.rank, nopeek.rank, none.rank] == [1, 2, 3]
    assert noise.mse.value == pytest.approx(0.020)
    assert noise.settings == ("noise_1", "noise_2")
    assert noise.mse.low < 0.020 < noise.mse.high
    assert nopeek.mse.value == pytest.approx(0.008)
    assert nopeek.to_best.value == pytest.approx(-0.012)
    assert nopeek.to_best.high < 0
    assert nopeek.like_best is False
    assert none.reached == "more accurate"
    assert none.mse.value == pytest.approx(0.004)
    assert noise.rank_shares[0] > 0.97
    assert sum(noise.rank_shares) == pytest.approx(1)
    missed = ranked_defence(found, "siftfunnel")
    assert (missed.rank, missed.mse.value, missed.reached) == (None, None, "not reached")


def test_equal_defences_are_not_distinguishable(tmp_path):
    arms = [
        UNDEFENDED,
        Arm("one", "nopeek", accuracy=0.95, mse=0.0200),
        Arm("two", "mid", accuracy=0.95, mse=0.0201),
    ]
    for name, spread in (("one", 0.9), ("two", 0.1)):
        arm = next(arm for arm in arms if arm.name == name)
        arm.spread, arm.tilt = spread, 1.0 if name == "one" else -1.0
    made = compare([write_run(tmp_path / str(seed), seed, arms) for seed in (0, 1)], resamples=300)
    found = made.matched[0]
    assert ranked_defence(found, "mid").rank == 1
    assert ranked_defence(found, "nopeek").like_best is True
    assert ranked_defence(found, "undefended").like_best is False
    assert 0 < ranked_defence(found, "nopeek").rank_shares[0] < 1


def test_a_defence_that_seldom_reaches_the_accuracy_is_marked(compared):
    found = next(item for item in compared.matched if item.accuracy == pytest.approx(0.94))
    noise = ranked_defence(found, "gaussian_noise")
    assert noise.rank == 1
    assert 0.2 < noise.reached_share < 0.8
    assert "It reaches this accuracy in only" in matched_words(found)


def test_weakest_tier_and_class(compared):
    by_label = {item.label: item for item in compared.tiers}
    weakest = by_label["nopeek_1"].weakest
    assert weakest.group == "small"
    assert weakest.victims == 3 * 50
    # Microcontrollers, a quarter of the victims, have half the others' MSE: 0.5 / 0.875 = 4 / 7.
    assert weakest.attacked.mse == pytest.approx(0.006 * 4 / 7, rel=0.05)
    assert weakest.to_mean.high < 0
    assert weakest.weakest_share == 1.0
    assert by_label["noise_1"].weakest is None  # one tier only
    classes = {item.label: item for item in compared.classes}
    assert classes["nopeek_2"].weakest.group == "microcontroller"
    relative = relative_leakage(compared.tiers, compared.measured)
    assert relative["small"] == pytest.approx(4 / 7, rel=0.05)
    assert relative["own"] > 1


def requests_of(seeds, devices, images):
    """Return the table of as many requests of every device of every seed."""
    places = np.arange(seeds * devices * images)
    return RequestTable(
        list(range(seeds)),
        places // (devices * images),
        places // images % devices,
        places % (devices * images),
    )


@pytest.mark.parametrize("seeds", [1, 2, 3, 12])
def test_resamples_have_the_law_of_students_t_over_the_outer_unit(seeds):
    """Over seeds, or over the devices of one seed; what is inside is kept whole."""
    table = requests_of(seeds, 9, 4)
    rng = np.random.default_rng(5)
    values = rng.normal(0, 1, len(table)) + table.seed_of + 0.5 * table.device_of
    estimate = resample(table, 40_000).mean(Column(np.arange(len(table)), values), "difference")
    means = values.reshape(9 if seeds == 1 else seeds, -1).mean(axis=1)
    count = len(means)
    error = means.std(ddof=1) / np.sqrt(count)
    expected = stats.t.ppf([0.025, 0.1, 0.5, 0.9, 0.975], count - 1) * error + values.mean()
    found = np.quantile(estimate.samples, [0.025, 0.1, 0.5, 0.9, 0.975])
    np.testing.assert_allclose(found, expected, atol=0.06 * (expected[-1] - expected[0]))
    if count < 8:  # else the interval is the bootstrap-t's
        shown = estimate.shown
        np.testing.assert_allclose([shown.low, shown.high], expected[[0, -1]])


def test_resamples_of_two_arms_are_paired():
    """A constant between two arms is the same in every resample."""
    table = requests_of(3, 5, 4)
    values = np.random.default_rng(0).normal(1, 1, len(table))
    draws = resample(table, 200)
    one, other = (draws.mean(Column(np.arange(60), values + extra)) for extra in (0.0, 0.25))
    np.testing.assert_allclose(other.samples - one.samples, 0.25)
    only = draws.mean(Column(np.arange(20), values[:20])).shown
    assert only.low < only.value < only.high  # over the devices of its one seed


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover_the_truth(seeds):
    """Over many data sets with devices and seeds of their own level, about 95 % cover the mean."""
    covered, rounds = 0, 300
    table = requests_of(seeds, 10, 5)
    draws = resample(table, 200)
    for number in range(rounds):
        rng = np.random.default_rng(number)
        levels = rng.normal(0, 1, seeds)[table.seed_of]
        own = rng.normal(0, 1, (seeds, 10))[table.seed_of, table.device_of]
        values = 3.0 + levels + own + rng.normal(0, 1, len(table))
        shown = draws.mean(Column(np.arange(len(table)), values), "difference").shown
        covered += shown.low <= 3.0 <= shown.high
    assert 0.91 * rounds <= covered < rounds


def test_all_hits_of_three_seeds_are_not_certainty():
    table = requests_of(3, 10, 8)
    draws = resample(table, 100)
    every = draws.mean(Column(np.arange(240), np.ones(240)), "share").shown
    # Seeds cannot be told apart: the 30 devices count.
    assert every.low == pytest.approx(0.025 ** (1 / 30))
    none = draws.mean(Column(np.arange(240), np.zeros(240)), "difference of shares").shown
    assert none.low < 0.0 < none.high


def test_percentiles_of_one_seed_resample_devices():
    table = requests_of(1, 6, 5)
    values = np.random.default_rng(5).exponential(1, 30)
    draws, column = resample(table, 300), Column(np.arange(30), values)
    for percent in (50.0, 95.0):
        found = draws.percentile(column, percent)
        assert found.shown.value == pytest.approx(np.percentile(values, percent))
        # Six devices drawn with replacement: every resample is a percentile of whole devices.
        counted = [
            np.percentile(np.concatenate([values[5 * d : 5 * d + 5] for d in picks]), percent)
            for picks in np.ndindex(6, 6, 6, 6, 6, 6)
            if list(picks) == sorted(picks)
        ]
        assert all(np.abs(np.array(counted) - value).min() < 1e-9 for value in found.samples)


def test_percentiles_of_several_seeds_are_over_their_percentiles():
    table = requests_of(3, 6, 5)
    values = 5.0 + np.random.default_rng(5).exponential(1, 90) + table.seed_of
    found = resample(table, 100).percentile(Column(np.arange(90), values), 50.0).shown
    each = np.median(values.reshape(3, 30), axis=1)
    half = stats.t.ppf(0.975, 2) * each.std(ddof=1) / np.sqrt(3)
    assert found.value == pytest.approx(np.median(values))
    assert found.high - found.value == pytest.approx(half)


def test_a_front_without_arms_names_none() -> None:
    """Where no attack rebuilds images, no arm has an MSE."""
    words = say("front", [], ["undefended", "sift"])
    assert words == "0 of 2 arms are on the Pareto front of accuracy and best-attack MSE."
    assert say("front", ["sift"], ["sift"]).endswith("best-attack MSE: sift.")
