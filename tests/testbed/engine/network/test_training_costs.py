"""What training costs a device, against figures by hand."""

import copy
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from small import TINY
from whole_runs import results_of, run

from testbed.engine.network import costs
from testbed.engine.network.ledger import Charge
from testbed.engine.network.radios import TrainingRadios
from testbed.engine.setting.models import arm_models
from testbed.engine.setting.run_context import read_run_inputs
from testbed.fleet.catalogue import load_catalogue
from testbed.fleet.link_effects import RadioTimers
from testbed.fleet.links import load_links
from testbed.fleet.sampling import sample_fleet
from testbed.scenario.loading import validate_scenario
from testbed.scenario.schema import FleetSection


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


def test_an_update_with_fedprox_reads_the_weights_of_the_rounds_start():
    moved = {}
    for strategy in ("fedavg", {"name": "fedprox", "proximal_mu": 0.1}):
        inputs = inputs_of(strategy=strategy)
        models = arm_models(inputs, inputs.scenario.arms[0])
        (tier,) = costs.device_costs(inputs, models).tiers
        moved[str(strategy)] = tier.update.activation_elements
    plain, proximal = moved.values()
    assert proximal - plain == models.main.edge_stats.params


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


def lte_round():
    """Return charges of a round's two messages, in ms and mJ, and the device's radio."""
    section = FleetSection.model_validate(
        {"size": 1, "mix": [{"device": "snapdragon-835", "links": {"lte": 1.0}}]}
    )
    timers = RadioTimers(sample_fleet(section, 0, load_catalogue(), load_links()), seed=1)
    features = Charge(2000, 5000, 3000.0, 400.0, 200.0, 50.0)
    weights = Charge(5000, 2000, 500.0, 300.0, 100.0, 20.0)
    return features, weights, timers, TrainingRadios(timers, np.array([40.0]))


def test_waking_up_waiting_and_tails_of_a_round_by_hand():
    features, weights, timers, radios = lte_round()
    drowsy, dormant = timers.wake_ms(0, 5.0), timers.wake_ms(0, 60.0)
    # The weights wake the radio. It dozes while the device computes for 3 s.
    forward, replied_ms = radios.in_round(0, features, 1000.0, first=True)
    assert forward.downlink_ms == pytest.approx(dormant + 200.0)
    assert forward.uplink_ms == pytest.approx(drowsy + 400.0)
    assert replied_ms == pytest.approx(1000.0 + dormant + 200.0 + 3000.0 + drowsy + 400.0)
    assert forward.wake_tail_mj == pytest.approx(1.2107 * (dormant + drowsy) + 1.06 * 3000.0)
    assert forward.energy_mj == pytest.approx(50.0 + forward.wake_tail_mj)
    # The others take 20 s: the radio stays awake for ten of them, then sleeps. The gradient
    # reaches it 20 ms after it was sent, and the features left it 20 ms before they arrived.
    backward, ended_ms = radios.in_round(0, weights, replied_ms + 20_000.0, first=False)
    assert backward.downlink_ms == pytest.approx(dormant + 100.0)
    assert backward.uplink_ms == 300.0  # awake: half a second of computing
    waited = 1.06 * (10_000.0 + 500.0)
    assert backward.wake_tail_mj == pytest.approx(1.2107 * dormant + waited)
    assert forward.round_ms == pytest.approx(replied_ms - 1000.0)
    assert backward.round_ms == pytest.approx(ended_ms - replied_ms)  # with the wait for others
    # The next round follows after 5 s; its first message pays for the tail since the last.
    again, _ = radios.in_round(0, features, ended_ms + 4960.0, first=True)
    assert again.downlink_ms == pytest.approx(drowsy + 200.0)
    tails = 1.06 * (5000.0 + 3000.0)
    assert again.wake_tail_mj == pytest.approx(1.2107 * 2 * drowsy + tails)
    assert again.round_ms == pytest.approx(drowsy + 200.0 + 3000.0 + drowsy + 400.0)
    (last,) = radios.finish().values()
    assert last.energy_mj == last.wake_tail_mj == pytest.approx(10_600.0)
    assert radios.finish() == {}


def test_enrolment_and_deployment_each_pay_for_a_wake_up_and_a_whole_tail():
    features, _, timers, radios = lte_round()
    alone = radios.alone(0, replace(features, compute_ms=0.0))
    dormant = timers.wake_ms(0, 60.0)
    assert alone.downlink_ms == pytest.approx(dormant + 200.0)
    assert alone.wake_tail_mj == pytest.approx(1.2107 * dormant + 10_600.0)
    assert radios.finish() == {}


def test_radios_that_never_sleep_and_unpublished_ones():
    features, weights, *_ = lte_round()
    awake = TrainingRadios(None, np.array([40.0]))
    charge, replied_ms = awake.in_round(0, features, 1000.0, first=True)
    assert (charge.wake_tail_mj, charge.energy_mj) == (0.0, 50.0)
    assert replied_ms == 1000.0 + 200.0 + 3000.0 + 400.0
    section = FleetSection.model_validate(
        {"size": 1, "mix": [{"device": "snapdragon-835", "links": {"5g-low-band": 1.0}}]}
    )
    fleet = sample_fleet(section, 0, load_catalogue(), load_links())
    unknown = TrainingRadios(RadioTimers(fleet, seed=1), np.array([40.0]))
    charge, _ = unknown.in_round(0, weights, 0.0, first=True)
    assert (charge.wake_tail_mj, charge.energy_mj) == (None, None)


def test_a_training_over_lte_pays_for_its_radios(tmp_path):
    tree = copy.deepcopy(TINY) | {"adversaries": [], "arms": TINY["arms"][:1]}
    tree["fleet"] |= {"mix": [{"device": "raspberry-pi-4", "links": {"lte": 1}}]}
    tree["fleet"]["availability"] = {"name": "always"}
    spent = {}
    for sleeps in (True, False):
        tree["fleet"]["radio_sleep"] = sleeps
        folder = run(tree, tmp_path / str(sleeps))
        spent[sleeps] = results_of(folder)["arms"][0]["training"]
        devices = pq.read_table(folder / "devices.parquet").to_pylist()
        for name in ("energy", "wake_tail", "idle"):
            total = sum(row[f"train_{name}_mj"] for row in devices) / 1000.0
            assert total == pytest.approx(spent[sleeps][f"{name}_j"])
        for row in devices:  # 2.7 W while it takes part
            assert row["train_idle_mj"] == pytest.approx(2.7 * row["train_round_ms"])
            assert row["train_round_ms"] <= 1000.0 * spent[sleeps]["virtual_s"] + 1e-6
    assert spent[False]["wake_tail_j"] == 0.0
    work = spent[True]["energy_j"] - spent[True]["wake_tail_j"]
    assert work == pytest.approx(spent[False]["energy_j"])
    # Eight enrolments alone: 10 s at 1.06 W after 0.6 to 1.2 s at 1.21 W each.
    assert spent[True]["wake_tail_j"] > 8 * 11.0 > 100 * work
    assert spent[True]["virtual_s"] > spent[False]["virtual_s"] + 3 * 0.6


def test_radios_of_unpublished_power_take_nothing_of_a_training_at_the_provider(tmp_path):
    tree = copy.deepcopy(TINY)
    tree["fleet"]["mix"] = [{"device": "pixel-4", "links": {"lte": 1}}]
    tree["training"] = {"protocol": "provider", "provider": {"epochs": 1, "batch_size": 32}}
    tree["arms"], tree["adversaries"] = tree["arms"][:1], []
    (arm,) = results_of(run(tree, tmp_path / "run"))["arms"]
    assert arm["training"]["energy_j"] == arm["training"]["wake_tail_j"] == 0.0
    assert arm["training"]["energy_unknown_devices"] == 0
    assert arm["serving"]["energy_unknown_devices"] > 0
