"""Both latency estimates of a run's front-ends, by device class."""

import copy
import json

import pytest
from small import TINY

from testbed.engine.experiment import arm_models
from testbed.engine.setting.run_context import read_run_inputs
from testbed.engine.summary.host_facts import second_estimates
from testbed.fleet.calibration.second_estimate import HostRates
from testbed.fleet.cost_model import inference_ms
from testbed.scenario.loading import validate_scenario


@pytest.fixture
def scaled(monkeypatch):
    """Let the host need 3 ms for a front-end, and half that of its devices for the references."""
    monkeypatch.setattr("testbed.engine.summary.host_facts.host_cpu_ms", lambda *_: 3.0)
    monkeypatch.setattr(
        HostRates,
        "second_estimate_ms",
        lambda self, device, ms: None if device.ram_mb < 2 else 2 * ms,
    )


def test_estimates_by_class_and_arm(scaled):
    tree = copy.deepcopy(TINY)
    inputs = read_run_inputs(validate_scenario(tree, "test"))
    arms = [arm_models(inputs, arm) for arm in inputs.scenario.arms]
    rows = second_estimates(inputs, arms)
    assert [(row["arm"], row["device_class"]) for row in rows] == [
        (arm, name) for arm in ("undefended", "sift") for name in ("mcu", "sbc")
    ]
    composition = {group.device_class: group.devices for group in inputs.fleet.composition()}
    for row in rows:
        assert row["devices"] + row["unknown_devices"] == composition[row["device_class"]]
        json.dumps(row, allow_nan=False)
        if row["device_class"] == "mcu":  # no reference network at hand
            assert (row["devices"], row["second_ms"], row["disagreement"]) == (0, None, None)
            continue
        models = next(arm for arm in arms if arm.arm == row["arm"])
        (model,) = [m for m in inputs.fleet.models if m.device_class == "sbc"]
        assert row["model_ms"] == pytest.approx(inference_ms(model, models.main.edge_stats))
        assert row["second_ms"] == 6.0
        assert row["disagreement"] == pytest.approx(6.0 / row["model_ms"])
