"""The frontier benchmark: matched accuracy, arms on the command line, replay, one small run."""

import itertools

import defence_frontier
import numpy as np
import pytest
from frontier.arms import DEFAULT_ARMS, parse_arm
from frontier.images import FrontierImages
from frontier.matching import average_seeds, reached, upper_hull
from frontier.measurement import AttackSetting, AveragedOracle
from frontier.output import verdicts
from frontier.records import read_rows, write_rows
from frontier.training import Budget
from hypothesis import given
from hypothesis import strategies as st

from testbed.adversaries.base import LabelledImages
from testbed.core.errors import UserError
from testbed.core.registries import DEFENCES

points = st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 0.1)), min_size=1, max_size=12)


def test_hull_by_hand():
    given_points = [(0.5, 0.01), (0.4, 0.03), (0.45, 0.012), (0.3, 0.031), (0.2, 0.02)]
    assert upper_hull(given_points) == [(0.5, 0.01), (0.4, 0.03), (0.3, 0.031)]
    assert reached(given_points, 0.45) == pytest.approx(0.02)
    assert reached(given_points, 0.1) == 0.031
    assert reached(given_points, 0.55) is None


@given(points, st.floats(0.0, 1.0))
def test_what_is_reached_is_never_below_a_point_and_never_above_all(some, accuracy):
    found = reached(some, accuracy)
    able = [mse for own, mse in some if own >= accuracy]
    if found is None:
        assert not able
        return
    assert max(able) - 1e-9 <= found <= max(mse for _, mse in some) + 1e-9


@given(points)
def test_what_is_reached_never_rises_with_accuracy(some):
    values = [reached(some, accuracy) or 0.0 for accuracy in np.linspace(0, 1, 21)]
    assert all(next_ <= own + 1e-9 for own, next_ in itertools.pairwise(values))


def test_arms_are_written_as_documented():
    arm = parse_arm("cnn:cut=1,width=8/gaussian_noise:scale=2.5")
    assert (arm.front_end.name, arm.front_end.options) == ("cnn", {"cut": 1, "width": 8})
    assert (arm.defence.name, arm.defence.options) == ("gaussian_noise", {"scale": 2.5})
    assert parse_arm("none").front_end.name == "siftfunnel_cnn"


def test_without_arms_every_registered_defence_is_compared():
    assert {parse_arm(text).defence.name for text in DEFAULT_ARMS} == set(DEFENCES.names())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nopek", "did you mean 'nopeek'"),
        ("nopeek:alpha", "must be written key=value"),
        ("nopeek:alpha=-1.0", "alpha: Input should be greater than 0"),
        ("cnn:cut=9/none", "cut: Input should be less than or equal to 4"),
    ],
)
def test_wrong_arms_are_refused_in_one_sentence(text, message):
    with pytest.raises(UserError, match=message):
        parse_arm(text)


class Noisy:
    def query(self, images, draw):
        return images + np.random.default_rng(draw).normal(size=images.shape).astype(np.float32)


def test_replay_averages_distinct_draws():
    images = np.zeros((40, 1, 16, 16), dtype=np.float32)
    averaged = AveragedOracle(Noisy(), 16)
    assert averaged.query(images, 0).std() == pytest.approx(0.25, rel=0.03)
    assert not np.array_equal(averaged.query(images, 0), averaged.query(images, 1))
    alone = AveragedOracle(Noisy(), 1).query(images, 5)
    np.testing.assert_array_equal(alone, Noisy().query(images, 5))


def rows_of(*triples):
    return [
        {"arm": arm, "images": 10, "epochs": 1, "accuracy": accuracy, "best_mse": mse}
        for arm, accuracy, mse in triples
    ]


def test_seeds_are_averaged_and_ours_is_set_against_the_others():
    rows = rows_of(("none", 0.6, 0.01), ("none", 0.4, 0.03), ("siftfunnel_plus", 0.5, 0.03))
    averaged = average_seeds(rows)
    assert averaged[0]["accuracy"] == pytest.approx(0.5)
    assert (averaged[0]["seeds"], averaged[0]["images"]) == (2, 10)
    assert isinstance(averaged[0]["images"], int)
    assert averaged[0]["mse_spread"] == pytest.approx(np.std([0.01, 0.03], ddof=1))
    assert "| 0.0200 | 1.50 |" in verdicts(averaged)


def test_rows_survive_the_file(tmp_path):
    rows = [{"arm": "a", "seed": 1, "mse": 0.25, "random": False}, {"arm": "b", "extra": 2}]
    write_rows(tmp_path / "x.csv", rows)
    found = read_rows(tmp_path / "x.csv")
    assert found[0] == {"arm": "a", "seed": 1, "mse": 0.25, "random": False, "extra": None}
    assert found[1]["extra"] == 2
    assert read_rows(tmp_path / "none.csv") == []


def test_a_small_run_from_the_command_line(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    labels = (np.arange(80) % 10).astype(np.int64)
    images = rng.random((80, 3, 16, 16), dtype=np.float32)
    part = [
        LabelledImages(images[start : start + 20], labels[start : start + 20])
        for start in (0, 20, 40, 60)
    ]
    small = FrontierImages(
        10,
        (part[0].images * 255).astype(np.uint8),
        part[0].labels,
        part[3],
        AttackSetting(part[1], part[2], part[3], 10),
    )
    monkeypatch.setattr(defence_frontier, "load_images", lambda *sizes: small)
    monkeypatch.setattr(defence_frontier, "Budget", lambda *sizes: Budget(*sizes, batch_size=20))
    command = (
        "x --images 20 --epochs 1 --seeds 0 1 --decoder-epochs 1 --replays 2 --defences "
        "cnn:width=8/none cnn:width=8/gaussian_noise cnn:width=8/siftfunnel_plus --out"
    )
    monkeypatch.setattr("sys.argv", [*command.split(), str(tmp_path)])
    assert defence_frontier.main() == 0
    said = capsys.readouterr().out
    rows = read_rows(tmp_path / "frontier.csv")
    assert len(rows) == 6
    assert (tmp_path / "frontier.png").stat().st_size > 10_000
    noisy = next(row for row in rows if "gaussian" in row["arm"])
    assert noisy["random"] is True
    assert noisy["replay2_mse"] > 0.0
    assert noisy["best_mse"] == min(
        noisy[f"{name}_mse"] for name in ("ridge", "kernel_ridge", "residual_decoder")
    )
    assert "| `cnn:width=8/siftfunnel_plus` | 2 |" in said
    # Finished arms are not trained again, and the same rows give the same tables.
    assert defence_frontier.main() == 0
    again = capsys.readouterr().out
    assert "epoch 1" not in again
    assert again.strip() in said


def test_a_document_without_the_block_is_refused_before_anything_is_trained(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(defence_frontier, "load", None)
    document = tmp_path / "page.md"
    document.write_text("nothing")
    assert defence_frontier.main(["--document", str(document)]) == 2
    assert "defence_frontier.py: begin" in capsys.readouterr().err
