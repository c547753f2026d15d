"""The moments of the devices' optimiser on FleetGrid: their bytes, several tiers, a warning."""

import copy

import pytest
import torch

from testbed.cli.dry_run import optimiser_notes
from testbed.core.progress import Progress
from testbed.engine.hosts.backend import InlineBackend
from testbed.engine.network.grid import fleet_grid
from testbed.engine.setting.models import arm_models
from testbed.engine.setting.run_context import RunContext, read_run_inputs
from testbed.engine.training.fleet import prepare, train
from testbed.scenario.loading import validate_scenario


def trained(tree, folder, optimiser, defence="none"):
    """Train the arm of two tiers; every device takes part in every round."""
    tree = copy.deepcopy(tree)
    tree["training"] |= {"round_deadline_s": 1e9, "edge_optimiser": optimiser, "cohort_size": 8}
    tree["arms"] = [{**tree["arms"][1], "defence": defence}]
    tree["fleet"]["mix"] = [
        {"device": name, "weight": 1, "links": {"wifi": 1}}
        for name in ("raspberry-pi-4", "pixel-4")
    ]
    tree["fleet"]["availability"] = {"name": "bernoulli", "probability": 1.0}
    tree["fleet"]["assignments"] = [
        {"name": "narrow", "devices": ["raspberry-pi-4"], "front_end": {"width": 16}}
    ]
    inputs = read_run_inputs(validate_scenario(tree, "test"))
    models = arm_models(inputs, inputs.scenario.arms[0])
    backend = InlineBackend(inputs.host_data())
    backend.install([tier.device_spec for tier in models.tiers])
    run_context = RunContext(inputs, backend, folder, Progress())
    arm = prepare(run_context, models, fleet_grid(run_context, models, []))
    train(run_context, arm)
    return arm


@pytest.mark.parametrize("defence", ["none", "adversarial_decoder"])
def test_the_bytes_of_moments_are_charged_both_ways(tiny, tmp_path, defence):
    plain, adam = (
        trained(tiny, tmp_path / method, {"method": method, "learning_rate": 0.003}, defence)
        for method in ("sgd", "adam")
    )
    assert len(adam.models.used()) == 2
    expected = 0
    for tier in adam.models.used():
        edge = adam.models.tiers[tier].edge
        weights = sum(value.nbytes for value in edge.initial_weights()[0].values())
        travelled = sum(value.nbytes for value in plain.server.tiers[tier].moments.values())
        members = int((adam.models.tier_of == tier).sum())
        expected += members * tiny["training"]["rounds"] * (2 * weights - travelled)
    for direction in ("uplink_bytes", "downlink_bytes"):
        more = adam.grid.ledger.total("train", direction) - plain.grid.ledger.total(
            "train", direction
        )
        assert expected < more < 1.2 * expected  # names and shapes of the arrays
    for tier in adam.models.used():
        kept = adam.server.tiers[tier]
        assert kept.moment_steps == tiny["training"]["rounds"] * tiny["training"]["local_steps"]
        assert all(bool(value.any()) for value in kept.moments.values())
        assert all(
            torch.isfinite(value).all()
            for value in (*kept.parameters.values(), *kept.moments.values())
        )


@pytest.mark.parametrize(
    ("optimiser", "defence", "local_steps", "notes"),
    [
        ({"method": "sgd", "momentum": 0.0}, "none", 1, []),
        ({"method": "sgd"}, "none", 2, []),
        ({"method": "sgd"}, "none", 1, ["training.edge_optimiser.momentum: no effect"]),
        ({"method": "sign"}, "none", 1, ["training.edge_optimiser: 'sign' is sign descent"]),
        (
            {"method": "adam"},
            "none",
            1,
            ["the weights; sent each way in a round: sift 15.6\u202fkB instead of 5.18\u202fkB"],
        ),
        (
            {"method": "sgd"},
            "adversarial_decoder",
            2,
            ["the weights of a defence's adversary; sent each way in a round: sift"],
        ),
    ],
)
def test_a_dry_run_says_what_the_optimiser_does(tiny, optimiser, defence, local_steps, notes):
    tiny["training"] |= {"edge_optimiser": optimiser, "local_steps": local_steps}
    tiny["arms"] = [{**tiny["arms"][1], "defence": defence}]
    inputs = read_run_inputs(validate_scenario(tiny, "test"))
    found = optimiser_notes(inputs.scenario, [arm_models(inputs, inputs.scenario.arms[0])])
    assert len(found) == len(notes)
    assert all(text in line for text, line in zip(notes, found, strict=True))
