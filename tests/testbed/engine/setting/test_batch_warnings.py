"""Distance correlations in a loss, on batches that are too small for them."""

import io

import pytest
import torch
from rich.console import Console
from small import make_batch, make_deployed

from clients.defences import nopeek, siftfunnel
from testbed.cli.dry_run import print_dry_run
from testbed.core.registries import DEFENCES
from testbed.engine.setting.batch_warnings import (
    batch_warnings,
    independent_value,
    with_batch_warnings,
)
from testbed.engine.setting.models import arm_models
from testbed.engine.setting.run_context import read_run_inputs
from testbed.scenario.loading import validate_scenario

FRONT_END = {"name": "cnn", "cut": 1, "width": 8}


def _inputs(tiny, *defences, **training):
    tiny["arms"] = [
        {"name": f"arm-{index}", "front_end": FRONT_END, "defence": defence}
        for index, defence in enumerate(defences)
    ]
    tiny["training"] |= training
    scenario = validate_scenario(tiny, "test")
    inputs = read_run_inputs(scenario)
    return inputs, [arm_models(inputs, arm) for arm in scenario.arms]


def test_every_defence_with_the_v_statistic_is_warned_about(tiny):
    quantised = {"name": "quantisation", "base": {"name": "nopeek"}}
    without = {"name": "siftfunnel", "beta": 0.0}
    found = batch_warnings(
        *_inputs(tiny, "nopeek", "siftfunnel", quantised, "none", "siftfunnel_plus", without)
    )
    assert [text.split("'")[1] for text in found] == ["arm-0", "arm-1", "arm-2"]
    assert "batches of 6 images" in found[0]
    assert "set a larger training.batch_size" in found[0]


def test_the_stated_value_is_that_of_independent_features_and_falls_with_the_batch(tiny):
    inputs, _ = _inputs(tiny, "nopeek")
    values = [independent_value(inputs, size, 512) for size in (6, 10, 100)]
    assert values[0] > values[1] > values[2]
    assert values[1] > 0.9
    assert independent_value(inputs, 100, 1) < 0.1
    assert independent_value(inputs, 10, 512) == values[1]


def test_large_batches_of_features_of_few_dimensions_are_not_warned_about(tiny, monkeypatch):
    inputs, models = _inputs(tiny, "nopeek")
    monkeypatch.setattr("testbed.engine.setting.batch_warnings.independent_value", lambda *_: 0.4)
    assert batch_warnings(inputs, models) == ()
    assert with_batch_warnings(inputs, models).data.warnings == inputs.data.warnings


def test_a_dry_run_states_it(tiny):
    tiny["arms"] = [{"name": "peek", "front_end": FRONT_END, "defence": "nopeek"}]
    text = io.StringIO()
    print_dry_run(validate_scenario(tiny, "test"), Console(file=text, width=400))
    assert "warning: arm 'peek': the distance correlation in its loss" in text.getvalue()


@pytest.mark.parametrize("name", [entry.name for entry in DEFENCES])
def test_what_a_defence_declares_is_what_its_penalty_calls(name, monkeypatch):
    """The penalty of every defence, with the V-statistic counted."""

    calls = []
    real = nopeek.distance_correlation_squared

    def counted(x, z):
        calls.append(len(x))
        return real(x, z)

    for module in (nopeek, siftfunnel):
        monkeypatch.setattr(module, "distance_correlation_squared", counted)
    model = make_deployed(defence=name).device_spec.build()

    x = torch.rand(6, 1, 32, 32)
    z = torch.rand(6, *model.front_end.feature_shape)
    model.defence.penalty(make_batch(x, z, released=z + 0.1))
    assert bool(calls) == model.defence.penalises_distance_correlation
