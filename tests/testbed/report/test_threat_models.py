"""The best attack of each threat model: attackers with more grants can mount weaker attacks too."""

import pytest
from small import filled, write_results, write_rows

from testbed.report.tables.threat_models import Ladder
from testbed.report.tables.threats import threat_table
from testbed.results.columns import TABLES
from testbed.results.grants import allows
from testbed.results.reading import read_results
from testbed.results.schema import Grants

EVERYBODY = range(40)
QUERIES = {"queries": True}
WEIGHTS = {"weights": True, "queries": True}
FREE = {"queries": False, "architecture": True}


def granted(grants):
    """Return grants; everything that is not named is denied."""
    return Grants(**filled(Grants, {"auxiliary_classes": "all", **grants}))


def attack(adversary, name, level, grants, victims=EVERYBODY, **more):
    """Describe an attack whose error is ``level`` on every victim, or given by a function."""
    errors = {victim: level(victim) if callable(level) else level for victim in victims}
    facts = {
        "adversary": adversary,
        "attack": name,
        "is_anchor": False,
        "rebuilds_images": True,
        "threat_model": f"words of {name}",
        "grants": {"auxiliary_images": 100, "auxiliary_classes": "all", "replays": 1, **grants},
        "position": "cloud",
        "victims": len(errors),
        "scores": {"mse": {"value": sum(errors.values()) / len(errors)}},
        **more,
    }
    return facts, errors


@pytest.fixture
def ladder(tmp_path):
    """Return a function that writes attacks on one arm, and reads them as a ladder."""

    def write(*attacks, error_bounds=()):
        arm = {
            "name": "only",
            "attacks": [facts for facts, _ in attacks],
            "error_bounds": list(error_bounds),
        }
        write_results(tmp_path, {"schema_version": 3, "arms": [arm]})
        table = [
            {
                "arm": "only",
                "adversary": facts["adversary"],
                "attack": facts["attack"],
                "request": victim,
                "mse": error,
            }
            for facts, errors in attacks
            for victim, error in errors.items()
        ]
        for name in TABLES:
            write_rows(tmp_path, name, table if name == "attacks" else [])
        return Found(read_results(tmp_path))

    return write


class Found:
    """The best attack on every rung, by the name of the attack whose words it has."""

    def __init__(self, results):
        self.results, read = results, Ladder(results)
        self.rungs = read.rungs()
        self.best = {
            rung.words.removeprefix("words of "): read.best(results.arms[0], rung)
            for rung in self.rungs
        }

    def name(self, words):
        return self.best[words].attack.attack


def test_white_box_attackers_can_mount_black_box_decoders(ladder):
    found = ladder(
        attack("asks", "decoder", 0.01, QUERIES),
        attack("insider", "white_box", 0.03, WEIGHTS),
    )
    assert (found.name("white_box"), found.name("decoder")) == ("decoder", "decoder")
    best = found.best["white_box"]
    assert (best.mse, best.own_mse) == pytest.approx((0.01, 0.03))
    assert (best.victims, best.read) == (40, 40)
    table = threat_table(found.results)
    cell = table.rows[1].cells[0]
    assert (table.rows[1].label, cell.value) == ("words of white_box", pytest.approx(0.01))
    assert cell.note == "decoder, asks; 40 victims; the lowest error on the victims"
    assert "cloud" in table.rows[1].note
    assert "100 images of its own" in table.rows[1].note


def test_validation_chooses_and_not_the_least_error_on_the_victims(ladder):
    found = ladder(
        attack("asks", "decoder", 0.010, QUERIES, validation_mse=0.020),
        attack("insider", "white_box", 0.012, WEIGHTS, validation_mse=0.013),
    )
    assert (found.name("white_box"), found.name("decoder")) == ("white_box", "decoder")
    assert found.best["white_box"].mse == pytest.approx(0.012)
    assert (found.best["white_box"].rule, found.best["decoder"].rule) == ("validation", None)
    note = threat_table(found.results).rows[1].cells[0].note
    assert "chosen on the attacker's validation images" in note


def test_attackers_without_queries_cannot_mount_query_attacks(ladder):
    found = ladder(
        attack("blind", "substitute", 0.05, FREE),
        attack("asks", "decoder", 0.01, QUERIES),
        attack("few", "ridge", 0.03, {"queries": 60}),
    )
    assert found.name("substitute") == "substitute"
    assert found.name("ridge") == "ridge"
    assert found.name("decoder") == "decoder"


def test_a_weaker_attack_with_fewer_grants_does_not_replace_the_own_attack(ladder):
    found = ladder(
        attack("blind", "substitute", 0.03, {"queries": False}),
        attack("asks", "decoder", 0.03, QUERIES),
    )
    assert found.name("decoder") == "decoder"


@pytest.mark.parametrize(
    ("more", "less", "allowed"),
    [
        ({}, {}, True),
        ({"queries": 60}, {"queries": 50}, True),
        ({"queries": 50}, {"queries": 60}, False),
        ({"queries": True}, {"queries": 10_000}, True),
        ({"queries": 10_000}, {"queries": True}, False),
        ({"weights": True}, {"queries": True}, True),
        ({"weights": True}, {"architecture": True}, True),
        ({"queries": True}, {"architecture": True}, False),
        ({"queries": True}, {"weights": True}, False),
        ({"replays": 8}, {"replays": 1}, True),
        ({"replays": 8}, {"replays": 64}, False),
        ({"auxiliary_images": 10}, {"auxiliary_images": 9}, True),
        ({"auxiliary_images": 10}, {"auxiliary_images": 11}, False),
        ({"auxiliary_classes": "all"}, {"auxiliary_classes": "disjoint_half"}, True),
        ({"auxiliary_classes": "disjoint_half"}, {"auxiliary_classes": "all"}, False),
        ({"auxiliary_data": "cifar10"}, {"auxiliary_data": None}, False),
        ({"auxiliary_data": None}, {"auxiliary_data": "cifar10"}, False),
        ({"labels": True}, {}, True),
        ({}, {"labels": True}, False),
        ({"weights": True}, {"steers_training": True}, False),
        ({"watches_training": True}, {"watches_training": True}, True),
        ({"weights": True}, {"watches_training": True}, False),
    ],
)
def test_grants_are_compared_item_by_item(more, less, allowed):
    assert allows(granted(more), granted(less)) is allowed


def test_attacks_are_compared_on_the_victims_that_both_read(ladder):
    # Requests from 20 on are hard. The decoder reads those alone, and is better on them, though
    # its mean is above that of the white-box attack, which reads easy ones as well.
    found = ladder(
        attack("asks", "decoder", 0.06, QUERIES, range(20, 60)),
        attack("insider", "white_box", lambda victim: 0.01 if victim < 20 else 0.08, WEIGHTS),
    )
    best = found.best["white_box"]
    assert best.attack.attack == "decoder"
    assert (best.victims, best.read) == (20, 40)
    assert (best.mse, best.own_mse) == pytest.approx((0.06, 0.08))
    note = threat_table(found.results).rows[1].cells[0].note
    assert "on 20 of 40 victims" in note
    assert "its own attacks reaches 0.0800" in note


def test_easier_victims_do_not_make_an_attack_better(ladder):
    # The decoder reads easy victims alone; on those the white-box attack does as well.
    found = ladder(
        attack("asks", "decoder", 0.02, QUERIES, range(20)),
        attack("insider", "white_box", lambda victim: 0.01 if victim < 20 else 0.08, WEIGHTS),
    )
    assert found.name("white_box") == "white_box"
    assert found.best["white_box"].mse == pytest.approx(0.045)


@pytest.mark.parametrize("shared", [0, 19])
def test_too_few_shared_victims_are_not_compared(ladder, shared):
    found = ladder(
        attack("asks", "decoder", 0.01, QUERIES, range(40 - shared, 80)),
        attack("insider", "white_box", 0.03, WEIGHTS),
    )
    assert found.name("white_box") == "white_box"


@pytest.mark.parametrize(("learns", "best"), [(True, "decoder"), (False, "substitute")])
def test_attacks_that_learn_from_intercepts_need_a_position_that_reads_them(ladder, learns, best):
    everything = attack(
        "blind", "substitute", 0.01, {"queries": False}, learns_from_intercepts=learns
    )
    found = ladder(everything, attack("asks", "decoder", 0.03, QUERIES, range(30)))
    assert found.name("decoder") == best
    assert found.best["decoder"].victims == 30


def test_the_same_grants_at_another_position_have_their_own_row(ladder):
    found = ladder(
        attack("first", "decoder", 0.03, QUERIES),
        attack("beside", "decoder", 0.02, QUERIES),
        attack("tapper", "decoder", 0.01, QUERIES, range(30, 70), position="40% of the links"),
        attack("other", "decoder", 0.05, QUERIES, range(50, 90), position="40% of the links"),
    )
    assert [rung.position.adversaries for rung in found.rungs] == [
        ("first", "beside"),
        ("tapper",),
        ("other",),
    ]
    rows = threat_table(found.results).rows
    assert [row.cells[0].note.split(";")[0] for row in rows[:2]] == [
        "decoder, beside",
        "decoder, tapper",
    ]
    # Its 20 victims are read by the tapper too, who is better on them.
    assert "decoder, tapper; on 20 of 40 victims" in rows[2].cells[0].note
    assert [row.note for row in rows[1:3]] == [
        f"40% of the links; 100 images of its own; read by {name}" for name in ("tapper", "other")
    ]


def test_the_error_bound_is_for_the_most_releases_averaged(ladder):
    levels = [{"mse": mse, "replays": replays} for mse, replays in ((0.02, 1), (0.005, 8))]
    higher = [{"mse": mse, "replays": replays} for mse, replays in ((0.015, 1), (0.009, 8))]
    found = ladder(
        attack("asks", "decoder", 0.05, QUERIES),
        attack("again", "ridge", 0.04, {**QUERIES, "replays": 8}),
        error_bounds=[{"tier": "own", "levels": levels}, {"tier": "small", "levels": higher}],
    )
    once, averaged, bound = threat_table(found.results).rows
    assert bound.label == "error bound for any attack"
    assert bound.cells[0].value == 0.005
    assert bound.cells[0].note == (
        "on smoothed images, for means over 8 releases; 0.020 for one release"
    )
    # Each threat model has its own: the tier that guarantees least differs.
    assert once.cells[0].note.endswith("; error bound 0.015")
    assert averaged.cells[0].note.endswith("; error bound 0.0050")


def test_a_deterministic_release_has_no_error_bound_for_any_average(ladder):
    none = {
        "tier": "own",
        "reason": "the error bound is 0: deterministic",
        "levels": [{"mse": 0.0}],
    }
    found = ladder(attack("asks", "decoder", 0.05, QUERIES), error_bounds=[none])
    model, bound = threat_table(found.results).rows
    assert "error bound" not in model.cells[0].note
    assert (bound.cells[0].value, bound.cells[0].note) == (
        0.0,
        "the error bound is 0: deterministic",
    )
