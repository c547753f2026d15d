"""What a run measures without an attack: the cheap measures always, critics where asked for."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from testbed.data.federated import to_unit
from testbed.engine.attacking import leakage
from testbed.engine.setting.run_context import read_run_inputs
from testbed.scenario.loading import validate_scenario

ARM = SimpleNamespace(models=SimpleNamespace(used=lambda: [0]))
BOUNDS = ("mine", "mine_bounded", "infonce")


@pytest.fixture
def measure(tiny, monkeypatch):
    """Return a function that measures copies of the images, small ones, as features."""

    def released(arm, images, tier):
        return torch.from_numpy(to_unit(images)[:, :, ::4, ::4] - 0.5)

    monkeypatch.setattr(leakage, "released_features", released)

    def run(images, asked):
        tiny["data"]["max_images"] = images
        tiny["evaluation"]["mutual_information"] = asked
        scenario = validate_scenario(tiny, "test")
        inputs = read_run_inputs(scenario)
        return leakage.leakage_by_tier(scenario, inputs.data, ARM)[0].tree(), inputs.data.parts

    return run


def test_the_cheap_measures_are_always_taken(measure):
    found, parts = measure(260, False)
    assert found["information"] is None
    assert found["samples"] == len(parts.victims)
    assert 0.8 < found["hsic"] <= 1.0
    assert 1.0 < found["participation_ratio"] < found["spectral_rank"] < found["samples"]
    assert found["nonzero_per_sample"] == 16.0
    assert 0.0 < found["mean_abs_feature"] < 0.5


def test_critics_are_trained_where_asked_and_change_nothing_else(measure):
    without, _ = measure(1000, False)
    found, parts = measure(1000, True)
    assert {**found, "information": None} == without
    information = found["information"]
    auxiliary = len(parts.auxiliary) + len(parts.auxiliary_validation)
    assert information["pairs"] == 4 * min(len(parts.victims), auxiliary // 3)
    bounds = {name: information[name] for name in BOUNDS}
    assert {bound["held_out"] for bound in bounds.values()} == {information["pairs"] // 4}
    assert bounds["infonce"]["nats"] > 1.0  # the features are most of the image
    assert bounds["infonce"]["nats"] <= bounds["infonce"]["ceiling_nats"] == np.log(64)
    assert 0.1 < bounds["mine_bounded"]["nats"] < 1.0
    assert bounds["mine"]["ceiling_nats"] is None
    assert measure(1000, True)[0] == found


def test_nothing_is_trained_on_victims(measure, monkeypatch):
    asked = []

    def released(arm, images, tier):
        asked.append([image.tobytes() for image in images])
        return torch.zeros(len(images), 1, 2, 2)

    monkeypatch.setattr(leakage, "released_features", released)
    _, parts = measure(1000, True)
    assert len(parts.victims) < leakage.LEAKAGE_SAMPLES  # so the first call had all of them
    victims, pairs = set(asked[0]), asked[1]
    held_out = len(pairs) // 4
    assert set(pairs[-held_out:]) <= victims
    assert not set(pairs[:-held_out]) & victims


def test_too_few_pairs_are_said_in_place_of_a_number(measure):
    found, _ = measure(260, True)
    for name in BOUNDS:
        bound = found["information"][name]
        assert bound["nats"] is None
        assert "too few pairs" in bound["reason"]
