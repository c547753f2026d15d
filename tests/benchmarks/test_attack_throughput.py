"""The attack benchmark: plain loops give the same numbers, and all attacks are timed."""

import dataclasses

import attack_throughput
import numpy as np
import pytest

from testbed.core.errors import UserError
from testbed.core.registries import ATTACKS

SIZES = {"auxiliary": 40, "victims": 8, "size-px": 16, "width": 8, "steps": 4, "epochs": 1}
SMALL = [f"--{name}={value}" for name, value in SIZES.items()]


@pytest.fixture(scope="module")
def cases():
    return attack_throughput.all_cases(attack_throughput.parse(SMALL))


@pytest.mark.long
def test_plain_loops_do_the_same_arithmetic(cases):
    apart = {(case.attack, case.phase): attack_throughput.disagreement(case) for case in cases}
    assert {
        key for key, value in apart.items() if not value <= attack_throughput.TOLERANCE
    } == set()
    # Trainings take the same steps from the same weights: what differs would grow.
    trained = [value for (_, phase), value in apart.items() if phase == "training"]
    assert max(trained) < 1e-3


def test_every_attack_that_learns_to_rebuild_images_is_timed(cases):
    timed = {name for case in cases for name in case.attack.split(", ")}
    rebuilding = {
        entry.name
        for entry in ATTACKS
        if entry.factory.rebuilds_images and not entry.factory.is_anchor
    }
    assert timed == rebuilding


def test_rates_are_medians_and_another_result_is_refused(cases, capsys):
    case = cases[1]
    rows = attack_throughput.measure([case], 3)
    assert [row["repeat"] for row in rows] == [0, 1, 2]
    table = attack_throughput.table(
        [
            row | {"ours_images_s": ours, "plain_images_s": 200.0}
            for row, ours in zip(rows, (100.0, 300.0, 150.0), strict=True)
        ]
    )
    assert "| `ridge` | reconstruction | 150 | 200 | 0.75 |" in table
    wrong = dataclasses.replace(case, plain=lambda: case.plain() + np.float32(0.1))
    with pytest.raises(UserError, match="ridge, reconstruction: the plain loop's result"):
        attack_throughput.measure([wrong], 1)
