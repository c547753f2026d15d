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


def test_images_of_one_person_count_together(tiny, arms):
    """Forty requests of eight devices show four persons, on whom the difference depends."""
    scenario = validate_scenario(tiny, "test")
    persons = np.arange(40) // 10

    def rows(arm, attack, step):
        made = _rows(arm, attack, range(40), 0.01)
        for row in made:
            row["device"], row["victim"] = row["request"] % 8, row["request"]
            row["mse"] = 0.02 + step * persons[row["victim"]]
            row["reidentified"] = persons[row["victim"]] > 0 if step else True
        return made

    both = rows("plain", "decoder", 0.0) + rows("defended", "ridge", 0.01)
    found = [compare_arms(scenario, arms, both, known)[0].difference for known in (None, persons)]
    for score in ("mse", "reidentified"):
        by_device, by_person = (getattr(item, score) for item in found)
        assert by_person.value == pytest.approx(by_device.value)
        assert by_person.high - by_person.low > 1.5 * (by_device.high - by_device.low)
    same = compare_arms(
        scenario, arms, rows("plain", "decoder", 0.0) + rows("defended", "ridge", 0.0)
    )
    none = same[0].difference.reidentified
    assert none.low < 0.0 < none.high  # forty equal outcomes are not certainty
