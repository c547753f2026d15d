"""What training costs a device, against figures by hand."""

import copy

import pytest
from small import TINY
from whole_runs import results_of, run

from testbed.engine.network import costs
from testbed.engine.setting.models import arm_models
from testbed.engine.setting.run_context import read_run_inputs
from testbed.scenario.loading import validate_scenario


def inputs_of(**training):
    """Return the inputs of the small scenario with other settings of the training."""
    tree = copy.deepcopy(TINY)
    tree["training"] |= training
    return read_run_inputs(validate_scenario(tree, "test"))


@pytest.mark.parametrize(
    ("training", "copies"),
    [
        ({"edge_optimiser": {"method": "adam"}}, 2),
        ({"edge_optimiser": {"method": "sgd", "momentum": 0.9}}, 1),
        ({"edge_optimiser": {"method": "sgd", "momentum": 0.0}}, 0),
        ({"strategy": {"name": "fedprox", "proximal_mu": 0.1}}, 2),  # momentum and the anchor
    ],
)
def test_memory_in_training_holds_the_optimisers_state(training, copies, monkeypatch):
    seen = []
    monkeypatch.setattr(
        costs,
        "training_feasibility",
        lambda device, network: seen.append(network) or costs.serving_feasibility(device, stats),
    )
    inputs = inputs_of(**training)
    models = arm_models(inputs, inputs.scenario.arms[0])
    stats = models.main.edge_stats
    costs.device_costs(inputs, models)
    kept = max(stats.saved_activation_elements, stats.peak_activation_elements)
    by_hand = 4 * ((2 + copies) * stats.params + 6 * kept)  # a batch of 6
    assert {network.bytes for network in seen} == {by_hand}


def test_a_fleet_that_is_half_offline_does_not_train_faster(tmp_path):
    tree = copy.deepcopy(TINY) | {"adversaries": [], "arms": TINY["arms"][:1]}
    tree["fleet"] |= {"mix": [{"device": "raspberry-pi-4", "links": {"wifi": 1}}]}
    taken = {}
    for share in (1.0, 0.5):
        tree["fleet"]["availability"] = {"name": "bernoulli", "probability": share}
        arm = results_of(run(tree, tmp_path / str(share)))["arms"][0]
        taken[share] = arm["training"]
    assert (taken[1.0]["offline"], taken[0.5]["offline"]) == (0, 6)
    assert taken[1.0]["virtual_s"] < 2.0
    # Three rounds of two steps with 600 s each: the first replies are due after a quarter.
    assert 3 * 150.0 < taken[0.5]["virtual_s"] < 3 * 150.0 + taken[1.0]["virtual_s"]
