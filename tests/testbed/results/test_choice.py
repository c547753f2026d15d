"""The best attack: chosen on validation images where all state it, else by the victims' errors."""

import numpy as np
import pytest
from small import filled

from testbed.privacy.intervals import Interval, least_interval, mean_interval
from testbed.results.choice import best_of, rule_of
from testbed.results.findings import best_by_tier
from testbed.results.schema import ArmResult


def attack(name, mse, validation, images=100, **more):
    return {
        "adversary": name,
        "attack": name,
        "rebuilds_images": True,
        "scores": {"mse": {"value": mse}},
        "validation_mse": validation,
        "grants": {"auxiliary_images": images},
        "by_tier": [{"tier": "only", "mse": {"value": mse}, "validation_mse": validation}],
        **more,
    }


def arm_of(*attacks, **more):
    tree = {"name": "only", "attacks": list(attacks), "tiers": [{"tier": "only"}], **more}
    return ArmResult.model_validate(filled(ArmResult, tree))


LUCKY, SOLID = attack("lucky", 0.010, 0.020), attack("solid", 0.012, 0.013)


def test_the_choice_of_validation_differs_from_the_least_error_on_the_victims():
    arm = arm_of(LUCKY, SOLID)
    assert (arm.best.adversary, arm.chosen_by) == ("solid", "validation")
    assert arm.best.mse == 0.012
    ((_, on_tier),) = best_by_tier(arm)
    assert on_tier.mse.value == 0.012


@pytest.mark.parametrize(
    "other",
    [
        attack("solid", 0.012, None),  # without queries, or an older result
        attack("solid", 0.012, 0.013, images=50),  # validated on other images
    ],
)
def test_errors_that_cannot_be_compared_leave_the_choice_to_the_victims(other):
    arm = arm_of(LUCKY, other)
    assert (arm.best.adversary, arm.chosen_by) == ("lucky", "victims")


def test_results_without_the_key_are_read():
    old = [{k: v for k, v in item.items() if k != "validation_mse"} for item in (LUCKY, SOLID)]
    arm = arm_of(*old)
    assert arm.best.adversary == "lucky"
    assert arm.attacks[0].validation_mse is None
    assert best_of([]) is None
    assert rule_of(arm.rebuilding) == "victims"


def test_the_best_attack_has_the_interval_that_covers_the_choice():
    wide = Interval(value=0.010, low=0.001, high=0.1, n=9)
    arm = arm_of(LUCKY, attack("solid", 0.012, None), best_mse=wide)
    assert arm.best.scores.mse == wide
    assert arm.best_attack("lucky").scores.mse != wide


def test_the_interval_of_the_least_covers_the_least_of_the_true_means():
    """Eight equal attacks: the least mean is too low, its own interval covers far too seldom."""
    rng = np.random.default_rng(0)
    own = covering = 0
    for repeat in range(60):
        columns = [(rng.exponential(0.01, 40), np.arange(40)) for _ in range(8)]
        values = min((values for values, _ in columns), key=np.mean)
        alone = mean_interval(values, 200, repeat)
        wider = least_interval(alone, columns, 200, repeat)
        assert wider.value == alone.value
        assert wider.low <= alone.low <= alone.high <= wider.high
        own += alone.low <= 0.01 <= alone.high
        covering += wider.low <= 0.01 <= wider.high
    assert covering >= 54 > own


def test_the_least_of_one_keeps_its_interval():
    own = Interval(value=0.01, low=0.005, high=0.02, n=3)
    assert least_interval(own, [(np.ones(3), np.arange(3))], 100, 0) is own
