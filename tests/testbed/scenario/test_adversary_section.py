"""Threat models in scenarios: an attack whose needs are not granted is refused before a run."""

import pytest

from testbed.core.errors import UserError
from testbed.core.registries import ATTACKS
from testbed.scenario.adversary import Position, _merged
from testbed.scenario.loading import load_scenario
from testbed.scenario.threat_model import AuxiliaryData, Knowledge, ThreatModel, grants


@pytest.fixture
def load(tiny, write_scenario):
    """Return a function that loads the small scenario with one adversary changed."""

    def load_with(**adversary):
        tiny["adversaries"] = [{"name": "nosy", **adversary}]
        return load_scenario(write_scenario(tiny))

    return load_with


WITHHELD = {"weights": False, "queries": False}


@pytest.mark.parametrize(
    ("attack", "knowledge", "needs"),
    [
        ("white_box", {"weights": False}, "the weights of the deployed front-end"),
        ("learned_prior", {"weights": False}, "the weights of the deployed front-end"),
        ("residual_decoder", WITHHELD, "query access"),
        ("ridge", WITHHELD, "query access"),
        ("substitute", {**WITHHELD, "architecture": False}, "the architecture"),
        ("label_inference", {"auxiliary_data": {"name": "olivetti_faces"}}, "labelled"),
    ],
)
def test_withheld_needs_are_refused_in_one_sentence(load, attack, knowledge, needs):
    with pytest.raises(UserError, match=rf"adversaries\.nosy: attack '{attack}' needs") as refused:
        load(attack=attack, knowledge=knowledge)
    assert needs in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("attack", "knowledge"),
    [
        ("substitute", WITHHELD),
        ("mean_image", WITHHELD),
        ("ridge", {"weights": False, "queries": 100}),
        ("ridge", {"weights": False}),
    ],
)
def test_granted_needs_are_accepted(load, attack, knowledge):
    scenario = load(attack=attack, knowledge=knowledge)
    assert scenario.adversaries[0].refusal() is None


def test_queries_are_active_unless_sent_to_a_copy():
    ask, read = (
        ThreatModel(queries=True),
        ThreatModel(architecture=True, learns_from_intercepts=True),
    )
    replays = Knowledge(replays=8)
    assert ask.conduct(Knowledge()) == "active"
    assert ask.conduct(Knowledge(), holds_weights=True) == "passive"
    assert ask.conduct(replays, holds_weights=True) == "active"
    assert (read.conduct(Knowledge()), read.conduct(replays)) == ("passive", "active")
    assert ThreatModel(weights=True, queries=True).conduct() == "passive"
    assert ThreatModel().conduct(replays) == "passive"  # anchors read no features
    assert ThreatModel(steers_training=True).conduct(replays) == "malicious training"


def test_grants_are_what_an_attack_used():
    blind = Knowledge(weights=False, queries=False)
    few = Knowledge(weights=False, queries=60, replays=8, auxiliary_classes="disjoint_half")
    ask, read = (
        ThreatModel(queries=True),
        ThreatModel(architecture=True, learns_from_intercepts=True),
    )
    found = grants(ask, few, False, 50)
    assert found == {
        "weights": False,
        "queries": 60,
        "replays": 8,
        "auxiliary_data": None,
        "auxiliary_classes": "disjoint_half",
        "auxiliary_images": 50,
        "labels": False,
        "answers": False,
        "architecture": False,
        "watches_training": False,
        "steers_training": False,
    }
    # The decoder does not need the weights, but an adversary that holds them can query a copy.
    assert grants(ask, Knowledge(), True, 50)["weights"] is False
    assert grants(ask, blind, True, 50)["queries"] is True
    assert grants(ThreatModel(weights=True, queries=True), Knowledge(), True, 50)["weights"]
    assert grants(read, Knowledge(), True, 50)["queries"] is False
    assert grants(ThreatModel(answers=True), few, False, 50)["replays"] == 1  # reads no features
    foreign = Knowledge(auxiliary_data=AuxiliaryData(name="cifar10"))
    assert grants(ask, foreign, False, 50)["auxiliary_data"] == "cifar10"


CLOUD = {"position": {"tap": "cloud"}}


@pytest.mark.parametrize(
    ("adversary", "changes", "says"),
    [
        ({"attack": "sdar"}, {}, "position.tap: attack 'sdar' runs in the cloud"),
        ({"attack": "sdar", **CLOUD}, {"protocol": "provider"}, "training.protocol: split_fed"),
        ({"attack": "fsha", **CLOUD}, {}, "add an arm for it with hijacked_by: nosy"),
        ({"attack": "sdar", **CLOUD}, {"hijacked_by": "nosy"}, "no adversary 'nosy' whose attack"),
        ({"attack": "fsha", **CLOUD}, {"hijacked_by": "nosi"}, "with hijacked_by: nosy"),
        ({"attack": "sdar", "curve": [0.5], **CLOUD}, {}, "no amount can be varied"),
        (
            {"attack": "sdar", "knowledge": {"architecture": False}, **CLOUD},
            {},
            "needs the architecture",
        ),
    ],
)
def test_training_attacks_that_cannot_work_are_refused(
    tiny, write_scenario, adversary, changes, says
):
    tiny["adversaries"] = [{"name": "nosy", **adversary}]
    if "protocol" in changes:
        tiny["training"]["protocol"] = changes["protocol"]
    if "hijacked_by" in changes:
        tiny["arms"][1]["hijacked_by"] = changes["hijacked_by"]
    with pytest.raises(UserError, match=says):
        load_scenario(write_scenario(tiny))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"attack": "label_inference", "transfer": True}, r"nosy\.transfer: .* no map from"),
        ({"attack": "mean_image", "transfer": True}, r"nosy\.transfer"),
        ({"attack": "mean_image", "curve": [0.5]}, r"nosy\.curve: .* no amount can be varied"),
        ({"attack": "ridge", "curve": [1.0]}, "less than 1"),
        (
            {
                "attack": "ridge",
                "curve": [0.5, 0.1],
                "knowledge": {"weights": False, "queries": 80},
            },
            r"0\.1 of 80 queries are 8, and an attack needs 20",
        ),
    ],
)
def test_comparisons_that_show_nothing_are_refused(load, changes, says):
    with pytest.raises(UserError, match=says):
        load(**changes)


def test_a_colluding_device_reveals_the_weights(load):
    position = {"colluding_device": True}
    adversary = load(attack="white_box", knowledge=WITHHELD, position=position).adversaries[0]
    assert adversary.holds_weights


@pytest.mark.parametrize(
    ("knowledge", "message"),
    [
        ({"queries": False}, "set weights: false too"),
        ({"queries": 50}, "set weights: false too"),
        ({"weights": False, "queries": 3}, "20 or more"),
        ({"weights": False, "queries": "some"}, "give true, false"),
        ({"replays": 65}, "less than or equal to 64"),
        ({"auxiliary_data": {"name": "digits"}}, "is the run's dataset"),
        ({"auxiliary_data": {"name": "digit"}}, "did you mean 'digits'"),
        (
            {"auxiliary_data": {"name": "cifar10"}, "auxiliary_classes": "disjoint_half"},
            "which auxiliary_data lacks",
        ),
    ],
)
def test_contradictions_are_refused(load, knowledge, message):
    with pytest.raises(UserError, match="adversaries") as refused:
        load(attack="ridge", knowledge=knowledge)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ({"tap": "cloud", "share_of_links": 0.5}, "reads everything there"),
        ({"tap": "access_point", "links_by_type": {"wifi": 1.0}}, "reads everything there"),
        ({"share_of_links": 0.5, "links_by_type": {"wifi": 1.0}}, "either"),
        ({"links_by_type": {"wifi": 0.0}}, "above 0"),
    ],
)
def test_positions_that_contradict_themselves_are_refused(load, position, message):
    with pytest.raises(UserError, match=message):
        load(attack="ridge", position=position)


def test_words_of_positions_and_threat_models():
    assert Position(tap="cloud").words() == "cloud"
    assert Position(share_of_links=0.3).words() == "30% of the links"
    typed = Position(links_by_type={"lte": 0.5}, colluding_device=True)
    assert typed.words() == "links by type: 50% of lte, and one colluding device"
    assert ThreatModel().words() == "auxiliary images only"
    white = ThreatModel(weights=True, queries=True).words(Knowledge(replays=8))
    assert "weights" in white
    assert "8 releases" in white
    asking = ThreatModel(queries=True)
    assert asking.words() == "auxiliary images and queries to the deployed front-end"
    few = Knowledge(weights=False, queries=60, auxiliary_classes="disjoint_half")
    assert asking.words(few) == (
        "auxiliary images of other classes than the victims' and at most 60 queries to the "
        "deployed front-end"
    )
    foreign = Knowledge(auxiliary_data=AuxiliaryData(name="cifar10"))
    assert ThreatModel().words(foreign) == "images of another dataset (cifar10) only"


def test_presets_change_the_options_that_an_attack_leaves_out(tiny, write_scenario):
    tiny["adversaries"] = [
        {"name": "all", "attack": "kernel_ridge"},
        {"name": "some", "attack": {"name": "kernel_ridge", "fits": 7}},
    ]
    standard = load_scenario(write_scenario(tiny))
    tiny["evaluation"]["attacks"] = "fast"
    everything, some = load_scenario(write_scenario(tiny)).adversaries
    preset = ATTACKS.entry("kernel_ridge").factory.presets["fast"]
    assert everything.attack.options == {**standard.adversaries[0].attack.options, **preset}
    assert some.attack.options == {**everything.attack.options, "fits": 7}
    tiny["evaluation"]["attacks"] = "standard"
    assert load_scenario(write_scenario(tiny)) == standard
    resolved = write_scenario(standard.model_dump(mode="json"))
    fast = load_scenario(resolved, ["evaluation.attacks=fast"])
    assert fast.adversaries == standard.adversaries  # a resolved scenario names every option


def test_options_written_within_a_preset_are_kept():
    assert _merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}, "e": 6}) == {
        "a": {"b": 5, "c": 2},
        "d": 3,
        "e": 6,
    }


def test_an_unknown_strength_is_refused(tiny, write_scenario):
    tiny["evaluation"]["attacks"] = "strong"
    with pytest.raises(UserError, match=r"evaluation\.attacks: .*'fast', 'standard' or 'thorough'"):
        load_scenario(write_scenario(tiny))


@pytest.mark.parametrize("entry", ATTACKS, ids=lambda entry: entry.name)
def test_presets_are_options_other_than_the_defaults(entry):
    standard = ATTACKS.options(entry.name, {}).model_dump()
    presets = entry.factory.presets
    assert presets.keys() in (set(), {"fast", "thorough"})
    for options in presets.values():
        chosen = ATTACKS.options(entry.name, options).model_dump()
        assert all(chosen[name] != standard[name] for name in options)
