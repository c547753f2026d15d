"""Fronts, interpolation, ranking and weakest devices of runs with known answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from runs_fixture import UNDEFENDED, Arm, write_run

from testbed.compare.analysis.groups import relative_leakage
from testbed.compare.analysis.matched import place_at
from testbed.compare.analysis.pareto import non_dominated
from testbed.compare.analysis.request_table import Column, RequestTable, mean_interval, resample
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
        next(arm for arm in arms if arm.name == name).spread = spread
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


def drawn_means(values, resamples):
    """Draw seeds, their devices and the devices' images one by one; (seeds, devices, images)."""
    rng, (seeds, devices, images) = np.random.default_rng(1), values.shape
    means = []
    for _ in range(resamples):
        drawn = [
            values[seed, device, rng.integers(0, images, images)]
            for seed in rng.integers(0, seeds, seeds)
            for device in rng.integers(0, devices, devices)
        ]
        means.append(np.concatenate(drawn).mean())
    return np.array(means)


def test_resamples_have_the_law_of_the_hierarchical_bootstrap():
    rng = np.random.default_rng(5)
    seed_of = np.repeat([0, 1, 2], 60)
    device_of = np.tile(np.repeat(np.arange(6), 10), 3)
    request_table = RequestTable([4, 7, 9], seed_of, device_of, np.tile(np.arange(60), 3))
    values = rng.normal(0, 1, 180) + seed_of + 0.5 * device_of
    draws = resample(request_table, 4000)
    assert (draws.requests.sum(axis=1) == 180).all()
    assert (draws.seeds.sum(axis=1) == 3).all()
    mine = draws.means(Column(np.arange(180), values))
    other = drawn_means(values.reshape(3, 6, 10), 4000)
    assert mine.mean() == pytest.approx(other.mean(), abs=0.05)
    assert mine.std() == pytest.approx(other.std(), rel=0.06)
    shown = mean_interval(Column(np.arange(180), values), mine)
    low, high = np.quantile(other, [0.025, 0.975])
    assert shown.value == pytest.approx(values.mean())
    assert shown.low == pytest.approx(low, abs=0.12)
    assert shown.high == pytest.approx(high, abs=0.12)


def test_intervals_cover_the_truth():
    """Over many data sets with devices and seeds of their own level, near 95 % cover the mean."""
    covered = 0
    rounds, seeds, devices, images = 120, 12, 10, 5
    places = np.arange(seeds * devices * images)
    request_table = RequestTable(
        list(range(seeds)),
        places // (devices * images),
        places // images % devices,
        places % (devices * images),
    )
    draws = resample(request_table, 400)
    for number in range(rounds):
        rng = np.random.default_rng(number)
        levels = rng.normal(0, 1, seeds)[request_table.seed_of]
        own = rng.normal(0, 1, (seeds, devices))[request_table.seed_of, request_table.device_of]
        column = Column(places, 3.0 + levels + own + rng.normal(0, 1, len(places)))
        shown = mean_interval(column, draws.means(column))
        covered += shown.low <= 3.0 <= shown.high
    assert 0.86 * rounds <= covered < rounds


def test_percentiles_of_resamples_are_those_of_the_drawn_values():
    rng = np.random.default_rng(2)
    request_table = RequestTable([0], np.zeros(30, int), np.repeat(np.arange(6), 5), np.arange(30))
    values = rng.exponential(1, 30)
    draws = resample(request_table, 50)
    for percent in (50.0, 95.0):
        made = draws.percentiles(Column(np.arange(30), values), percent)
        for counts, found in zip(draws.requests.astype(int), made, strict=True):
            assert found == pytest.approx(np.percentile(np.repeat(values, counts), percent))


def test_a_front_without_arms_names_none() -> None:
    """Where no attack rebuilds images, no arm has an MSE."""
    words = say("front", [], ["undefended", "sift"])
    assert words == "0 of 2 arms are on the Pareto front of accuracy and best-attack MSE."
    assert say("front", ["sift"], ["sift"]).endswith("best-attack MSE: sift.")
