"""Tiers: assignment of front-ends, a run over different front-ends, and its results."""

import copy

import numpy as np
import pyarrow.parquet as pq
import pytest
from small import TINY, make_spec
from whole_runs import results_of, run

from testbed.core.errors import UserError
from testbed.engine.network.costs import device_costs
from testbed.engine.network.grid import fleet_grid
from testbed.engine.setting.models import arm_models, edge_stats
from testbed.engine.setting.run_context import RunContext, read_fleet, read_run_inputs
from testbed.engine.setting.tiers import OWN, plan_tiers
from testbed.fleet.cost_model import training_step_ms
from testbed.scenario.components import Component
from testbed.scenario.loading import dump_scenario, parse_yaml, validate_scenario

NARROW = {"name": "narrow", "devices": ["mcu"], "front_end": {"width": 16, "cut": 1}}


def tree(**changes):
    found = copy.deepcopy(TINY)
    found["data"]["image_size_px"] = 32  # which microcontrollers cannot train on
    for path, value in changes.items():
        node = found
        *keys, last = path.split("__")
        for key in keys:
            node = node[key]
        node[last] = value
    return found


def stats_of(spec):
    return edge_stats(make_spec(spec.front_end.name, spec.front_end.options))


def plan(given, arm=0):
    scenario = validate_scenario(given, "test")
    fleet, _ = read_fleet(scenario)
    found = plan_tiers(scenario.fleet, fleet, scenario.arms[arm], stats_of)
    names = [found.specs[tier].name for tier in found.tier_of]
    return found, {fleet.device_class(i): names[i] for i in range(len(fleet))}


def test_without_assignments_all_run_the_arms_own():
    found, of_class = plan(tree())
    assert [spec.name for spec in found.specs] == [OWN]
    assert set(of_class.values()) == {OWN}


def test_the_first_assignment_that_names_a_device_decides():
    second = {"name": "second", "devices": ["mcu", "sbc"], "precision": "int8"}
    found, of_class = plan(tree(fleet__assignments=[NARROW, second]))
    assert of_class == {"mcu": "narrow", "sbc": "second"}
    narrow, second = found.specs[1:]
    assert narrow.front_end == Component(name="cnn", options={"cut": 1, "width": 16})
    assert (second.front_end, second.precision) == (found.specs[0].front_end, "int8")


def test_an_assignment_holds_on_the_arms_it_names():
    given = tree(fleet__assignments=[{**NARROW, "arms": ["sift"]}])
    assert plan(given, 0)[1]["mcu"] == OWN
    assert plan(given, 1)[1]["mcu"] == "narrow"


def test_devices_that_it_does_not_fit_get_the_first_smaller_front_end_that_does():
    wide = {"cut": 2, "width": 256}  # too much for a microcontroller
    given = tree(fleet__infeasible="smaller_front_end")
    given["arms"][0]["front_end"] = {"name": "cnn", **wide}
    found, of_class = plan(given)
    assert of_class["sbc"] == OWN
    assert of_class["mcu"].startswith("own-smaller-")
    tier = next(spec for spec in found.specs if spec.name == of_class["mcu"])
    halvings = int(of_class["mcu"].removeprefix("own-smaller-"))
    assert tier.front_end.options["width"] == 256 // 2**halvings
    fleet, _ = read_fleet(validate_scenario(given, "test"))
    ram = next(model.ram_bytes for model in fleet.models if model.device_class == "mcu")

    def int8_bytes(width):
        stats = edge_stats(make_spec("cnn", {**wide, "width": width}))
        return stats.params + stats.peak_activation_elements

    assert int8_bytes(256 // 2**halvings) <= ram < int8_bytes(256 // 2 ** (halvings - 1))


def test_smaller_front_ends_of_the_scenario_are_tried_in_order():
    given = tree(fleet__infeasible="smaller_front_end")
    given["arms"][0]["front_end"] = {"name": "cnn", "cut": 2, "width": 256}
    given["fleet"]["smaller_front_ends"] = [{"width": 128, "cut": 4}, {"width": 16}, {"width": 8}]
    found, of_class = plan(given)
    assert of_class["mcu"] == "own-smaller-2"
    assert found.specs[-1].front_end.options == {"cut": 2, "width": 16}


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ({"front_end": {"widht": 8}}, "fleet.assignments.narrow.front_end.*no option 'widht'.*wid"),
        ({"front_end": {"width": 9}}, "fleet.assignments.narrow.front_end.width.*multiple of 8"),
        ({"front_end": "resnet"}, "unknown front-end 'resnet'"),
        ({"defence": {"scale": 1.0}}, "fleet.assignments.narrow.defence"),
        ({"arms": ["absent"]}, "no arm 'absent'"),
        ({"precision": "int4"}, "fleet.assignments.0.precision"),
        ({"devices": []}, "fleet.assignments.0.devices"),
    ],
)
def test_wrong_assignments_are_refused_with_their_key(assignment, says):
    with pytest.raises(UserError, match=says):
        validate_scenario(tree(fleet__assignments=[NARROW | assignment]), "test")


def test_an_unknown_class_is_refused():
    given = tree(fleet__assignments=[NARROW | {"devices": ["mcus"]}])
    with pytest.raises(UserError, match=r"no device class or device 'mcus' .did you mean 'mcu'"):
        read_fleet(validate_scenario(given, "test"))


def test_smaller_front_ends_without_their_policy_are_refused():
    with pytest.raises(UserError, match=r"smaller_front_ends needs 'fleet\.infeasible: smaller"):
        validate_scenario(tree(fleet__smaller_front_ends=[{"width": 8}]), "test")


def test_a_scenario_with_tiers_survives_being_written():
    scenario = validate_scenario(tree(fleet__assignments=[NARROW]), "test")
    assert validate_scenario(parse_yaml(dump_scenario(scenario), "copy"), "copy") == scenario


def test_each_device_is_charged_for_its_own_front_end():
    given = tree(fleet__assignments=[NARROW])
    inputs = read_run_inputs(validate_scenario(given, "test"))
    models = arm_models(inputs, inputs.scenario.arms[0])
    costs = device_costs(inputs, models)
    mcu = int(np.flatnonzero(models.tier_of == 1)[0])
    own, narrow = (costs.compute_ms(mcu, "query.infer", 1, tier) for tier in (0, 1))
    assert costs.compute_ms(mcu, "query.infer", 1) == narrow > own > 0


def test_the_clouds_training_step_takes_the_time_of_each_tiers_own_path():
    given = tree(fleet__assignments=[NARROW])
    inputs = read_run_inputs(validate_scenario(given, "test"))
    models = arm_models(inputs, inputs.scenario.arms[1])
    clock = fleet_grid(RunContext(inputs, None, None, None), models, [])._clock
    own, narrow = (
        training_step_ms(inputs.cloud_device, tier.cloud_stats, 12) for tier in models.tiers
    )
    assert narrow > 1.1 * own  # its entry layers
    assert clock.cloud_step_ms({0: 12}) == pytest.approx(own)
    assert clock.cloud_step_ms({1: 12}) == pytest.approx(narrow)
    empty = training_step_ms(inputs.cloud_device, models.main.cloud_stats, 0)
    half = empty + (own - empty + narrow - empty) / 2
    assert clock.cloud_step_ms({0: 6, 1: 6}) == pytest.approx(half)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiers") / "run"
    rounded = {"name": "rounded", "devices": ["mcu"], "arms": ["sift"], "precision": "int8"}
    given = tree(fleet__assignments=[NARROW | {"arms": ["undefended"]}, rounded])
    given["adversaries"][1] |= {"transfer": True, "curve": [0.5]}
    short = {"steps": 4, "decoder": {"max_epochs": 1, "min_epoch_steps": 1}}
    free = {"name": "free", "position": {"tap": "cloud"}, "curve": [0.5, 0.25]}
    given["adversaries"].append(free | {"attack": {"name": "substitute", **short}})
    run(given, folder, figures=True)
    return folder, results_of(folder)


def test_a_run_reports_every_tier(finished):
    _, results = finished
    own, narrow = results["arms"][0]["tiers"]
    assert (own["tier"], narrow["tier"]) == (OWN, "narrow")
    assert narrow["device_classes"] == ["mcu"]
    assert (own["devices"], narrow["devices"]) == (6, 2)
    assert narrow["edge"]["feature_bytes"] == 2 * own["edge"]["feature_bytes"]
    assert own["requests"] + narrow["requests"] == results["arms"][0]["serving"]["requests"]


def test_attacks_are_mounted_and_scored_per_tier(finished):
    folder, results = finished
    rows = pq.read_table(folder / "attacks.parquet").to_pylist()
    for entry in results["arms"][0]["attacks"]:
        assert sum(tier["victims"] for tier in entry["by_tier"]) == entry["victims"]
        for tier in entry["by_tier"]:
            own = [
                row["mse"]
                for row in rows
                if (row["arm"], row["adversary"], row["attack"], row["tier"])
                == ("undefended", entry["adversary"], entry["attack"], tier["tier"])
            ]
            assert tier["mse"]["value"] == pytest.approx(np.mean(own))


def attack_of(results, arm, adversary):
    return next(
        entry
        for entry in results["arms"][arm]["attacks"]
        if entry["adversary"] == adversary and not entry["is_anchor"]
    )


def test_attacks_say_what_they_used_and_whether_their_training_was_stopped(finished):
    _, results = finished
    ridge, free = attack_of(results, 0, "cloud"), attack_of(results, 0, "free")
    assert ridge["grants"] | {"auxiliary_images": 0} == {
        "weights": False,
        "queries": True,
        "replays": 1,
        "auxiliary_data": None,
        "auxiliary_classes": "all",
        "auxiliary_images": 0,
        "labels": False,
        "answers": False,
        "architecture": False,
        "watches_training": False,
        "steers_training": False,
    }
    assert ridge["grants"]["auxiliary_images"] == results["data"]["images"]["auxiliary"]
    assert (free["grants"]["queries"], free["grants"]["architecture"]) == (False, True)
    # One epoch is no plateau; a closed form trains until none.
    assert [free["reached_plateau"], *(t["reached_plateau"] for t in free["by_tier"])] == [
        False
    ] * 3
    assert ridge["reached_plateau"] is None


def test_transfer_is_scored_on_the_target_tiers_victims_where_shapes_agree(finished):
    _, results = finished
    for arm, other, shapes_agree in ((0, "narrow", False), (1, "rounded", True)):
        entry = attack_of(results, arm, "cloud")
        cells = {(cell["trained_on"], cell["applied_to"]): cell for cell in entry["transfer"]}
        assert set(cells) == {(a, b) for a in (OWN, other) for b in (OWN, other)}
        for tier in entry["by_tier"]:
            own = cells[tier["tier"], tier["tier"]]
            assert own["mse"] == tier["mse"]
        for source, target in ((OWN, other), (other, OWN)):
            cell, own = cells[source, target], cells[target, target]
            assert cell["victims"] == own["victims"]
            assert ("mse" in cell, cell["reason"] == "") == (shapes_agree, shapes_agree)
            if shapes_agree:
                assert cell["mse"]["n"] == own["victims"]
                # Another front-end taught this attack, so it is not the tier's own result.
                assert cell["mse"]["value"] != own["mse"]["value"]
    assert "8x16x16 and not of 16x16x16" in cells_reason(results)
    assert attack_of(results, 0, "eaves")["transfer"] == []


def cells_reason(results):
    cells = attack_of(results, 0, "cloud")["transfer"]
    return next(c["reason"] for c in cells if (c["trained_on"], c["applied_to"]) == ("narrow", OWN))


def test_success_by_amount_is_scored_on_the_same_victims(finished):
    _, results = finished
    ridge, free = attack_of(results, 0, "cloud"), attack_of(results, 0, "free")
    half, whole = ridge["by_amount"]["points"]
    assert ridge["by_amount"]["unit"] == "auxiliary images"
    assert half["amount"] == round(0.5 * whole["amount"])
    assert half["queries"] < whole["queries"] == ridge["queries"]
    assert free["by_amount"]["unit"] == "intercepts"
    assert [point["share"] for point in free["by_amount"]["points"]] == [0.25, 0.5, 1.0]
    amounts = [point["amount"] for point in free["by_amount"]["points"]]
    assert amounts == sorted(set(amounts))
    assert amounts[-1] == free["victims"]
    for entry in (ridge, free):
        points = entry["by_amount"]["points"]
        assert {point["mse"]["n"] for point in points} == {entry["victims"]}
        assert points[-1]["mse"]["value"] == pytest.approx(entry["scores"]["mse"]["value"])
        assert points[0]["mse"]["value"] != points[-1]["mse"]["value"]
    assert attack_of(results, 0, "eaves")["by_amount"] is None


def test_the_report_shows_transfer_and_amounts(finished):
    folder, _ = finished
    page = (folder / "report.html").read_text()
    assert page.count('id="table-transfer-') == 2
    assert "features of 8x16x16 and not of 16x16x16" in page
    assert "By the number of intercepts, on the same" in page
    assert page.count("error by the amount learned from") == 4


def test_self_checks_pass_over_tiers(finished):
    _, results = finished
    assert [check["name"] for check in results["self_checks"] if not check["passed"]] == []


def test_a_tier_that_cannot_train_is_trained_by_the_others(finished):
    # The microcontrollers cannot hold gradients, yet their front-end has moved from its start.
    folder, results = finished
    assert results["arms"][0]["tiers"][1]["infeasible_training"] == 2
    from safetensors.numpy import load_file

    newest = sorted((folder / "checkpoints" / "undefended").glob("*.safetensors"))[-1]
    kept = load_file(newest)
    inputs = read_run_inputs(validate_scenario(tree(fleet__assignments=[NARROW]), "test"))
    start = arm_models(inputs, inputs.scenario.arms[0]).tiers[1].edge.initial_weights()[0]
    moved = {
        name: float(np.abs(kept[f"tier.1.front_end.{name}"] - value.numpy()).max())
        for name, value in start.items()
    }
    assert min(moved[name] for name in moved if name.endswith("weight")) > 0
