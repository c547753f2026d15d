"""Arms compared over shared requests, each adversary by its best attack on either."""

import numpy as np
import pytest

from testbed.engine.summary.comparisons import best_of, compare_arms
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
            "mse": mse + 0.001 * request,
            "ssim": 0.5,
            "reidentified": True,
        }
        for request in requests
    ]


@pytest.fixture
def arms():
    return [
        {"name": "plain", "attacks": [_attack("ridge", 0.02), _attack("decoder", 0.01)]},
        {
            "name": "defended",
            "attacks": [
                _attack("mean_image", 0.001, is_anchor=True),
                _attack("labels", 0.001, rebuilds_images=False),
                _attack("ridge", 0.03),
                _attack("decoder", 0.05),
            ],
        },
    ]


def test_the_best_attack_rebuilds_images_and_is_no_anchor(arms):
    assert best_of(arms[0], "spy") == "decoder"
    assert best_of(arms[1], "spy") == "ridge"
    assert best_of(arms[1], "nobody") is None


def test_differences_are_paired_over_shared_requests(tiny, arms):
    scenario = validate_scenario(tiny, "test")
    rows = _rows("plain", "decoder", range(20), 0.01) + _rows(
        "defended", "ridge", range(5, 30), 0.03
    )
    (found,) = compare_arms(scenario, arms, rows)
    assert (found["arm"], found["reference"]) == ("defended", "plain")
    assert (found["attack"], found["reference_attack"]) == ("ridge", "decoder")
    assert (found["victims"], found["devices"]) == (15, 5)
    difference = found["difference"]["mse"]
    # Paired: the part that depends on the request cancels, and the interval has no width.
    np.testing.assert_allclose(
        [difference["value"], difference["low"], difference["high"]], 0.02, atol=1e-12
    )
    assert found["difference"]["reidentified"]["value"] == 0.0
    assert compare_arms(scenario, arms[:1], rows) == []
