"""Arms compared over shared requests, each adversary by its best attack on either."""

import numpy as np
import pytest
from small import filled

from testbed.engine.summary.comparisons import compare_arms
from testbed.results.schema import ArmResult, Differences
from testbed.scenario.loading import validate_scenario


def _attack(name, mse, **changes):
    entry = {
        "adversary": "spy",
        "attack": name,
        "is_anchor": False,
        "rebuilds_images": True,
        "scores": {"mse": {"value": mse}},
    }
    return entry | changes


def _rows(arm, attack, requests, mse):
    return [
        {
            "arm": arm,
            "adversary": "spy",
            "attack": attack,
            "request": request,
            "device": request % 5,
            **dict.fromkeys(Differences.model_fields, 0.5),
            "mse": mse + 0.001 * request,
            "reidentified": True,
        }
        for request in requests
    ]


def _arm(name, *attacks):
    tree = filled(ArmResult, {"name": name, "attacks": list(attacks)})
    return ArmResult.model_validate(tree)


@pytest.fixture
def arms():
    return [
        _arm("plain", _attack("ridge", 0.02), _attack("decoder", 0.01)),
        _arm(
            "defended",
            _attack("mean_image", 0.001, is_anchor=True),
            _attack("labels", 0.001, rebuilds_images=False),
            _attack("ridge", 0.03),
            _attack("decoder", 0.05),
        ),
    ]


def test_the_best_attack_rebuilds_images_and_is_no_anchor(arms):
    assert arms[0].best_attack("spy").attack == "decoder"
    assert arms[1].best_attack("spy").attack == "ridge"
    assert arms[1].best_attack("absent") is None


def test_differences_are_paired_over_shared_requests(tiny, arms):
    scenario = validate_scenario(tiny, "test")
    rows = _rows("plain", "decoder", range(20), 0.01) + _rows(
        "defended", "ridge", range(5, 30), 0.03
    )
    (comparison,) = compare_arms(scenario, arms, rows)
    assert (comparison.arm, comparison.reference) == ("defended", "plain")
    assert (comparison.attack, comparison.reference_attack) == ("ridge", "decoder")
    assert (comparison.victims, comparison.devices) == (15, 5)
    mse = comparison.difference.mse
    # Paired: the part that depends on the request cancels, and the interval has no width.
    np.testing.assert_allclose([mse.value, mse.low, mse.high], 0.02, atol=1e-12)
    assert comparison.difference.reidentified.value == 0.0
    assert compare_arms(scenario, arms[:1], rows) == []
    assert compare_arms(scenario, [], rows) == []
