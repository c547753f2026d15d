"""More knowledge never does worse: which attacks are compared, and what the tolerance is."""

import numpy as np
import pytest
from small import filled

from testbed.engine.summary.knowledge_check import more_knowledge
from testbed.results.schema import AttackResult, Grants
from testbed.scenario.adversary import Adversary

WEIGHTS = {"weights": True, "queries": True}
QUERIES = {"weights": False, "queries": True}
WHITE_BOX = {"name": "white_box", "start": "kernel_ridge"}


def adversary(name, knowledge, attack):
    return Adversary.model_validate(
        {"name": name, "position": {"tap": "cloud"}, "knowledge": knowledge, "attack": attack}
    )


def attacked(name, attack, grants, errors):
    """Return an attack's entry and rows, with an error for each of some requests."""
    granted = {"auxiliary_classes": "all", "auxiliary_images": 100, "replays": 1, **grants}
    facts = {
        "adversary": name,
        "attack": attack,
        "grants": Grants(**filled(Grants, granted)),
        "scores": {"mse": {"value": float(np.mean(list(errors.values())))}},
    }
    entry = AttackResult.model_validate(filled(AttackResult, facts))
    return entry, [
        {"adversary": name, "attack": attack, "request": request, "mse": error}
        for request, error in errors.items()
    ]


def check(insider_error, victims=40, attack=WHITE_BOX, insider=WEIGHTS):
    rng = np.random.default_rng(0)
    closed = dict(enumerate(rng.uniform(0.005, 0.015, victims)))
    searched = {request: insider_error(error) for request, error in closed.items()}
    found = [
        attacked("asks", "kernel_ridge", QUERIES, closed),
        attacked("insider", attack["name"], insider, searched),
    ]
    adversaries = [
        adversary("asks", {"weights": False}, "kernel_ridge"),
        adversary("insider", {"weights": True}, attack),
    ]
    entries, rows = zip(*found, strict=True)
    return more_knowledge(adversaries, entries, [row for part in rows for row in part])


def test_a_search_that_loses_to_its_start_fails():
    passed, detail = check(lambda error: 1.3 * error)
    assert not passed
    assert "white_box of insider beside kernel_ridge of asks" in detail


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("1 pairs", {"insider_error": lambda error: 0.8 * error}),
        ("1 pairs", {"insider_error": lambda error: 1.05 * error}),  # within the tolerance
        ("fewer than 20", {"insider_error": lambda error: 2.0 * error, "victims": 19}),
        # It starts elsewhere, or was granted less than the attack beside it.
        (
            "0 pairs",
            {
                "insider_error": lambda error: 2.0 * error,
                "attack": {"name": "white_box", "start": "mean_image"},
            },
        ),
        (
            "0 pairs",
            {
                "insider_error": lambda error: 2.0 * error,
                "insider": {**WEIGHTS, "auxiliary_images": 50},
            },
        ),
    ],
)
def test_only_a_certain_loss_to_an_attack_that_it_builds_on_fails(words, arguments):
    passed, detail = check(**arguments)
    assert passed
    assert words in detail


def test_a_few_hard_victims_are_sampling_noise():
    places = iter(range(40))
    passed, _ = check(lambda error: 12.0 * error if next(places) == 0 else error)
    assert passed
