"""Kept models: their keys, and checks before they are used."""

import copy
import json
import logging

import pytest
import torch

from server import machine
from server.schedule import EpochRecord
from testbed.engine.setting.models import arm_models
from testbed.engine.setting.run_context import read_run_inputs
from testbed.engine.training.model_cache import (
    FOLDER_VARIABLE,
    TrainedModel,
    load_model,
    models_folder,
    save_model,
)
from testbed.engine.training.model_key import describe_model, key_of
from testbed.engine.training.provider import provider_images
from testbed.scenario.loading import validate_scenario

FACTS = {
    "tiers": [{"front_end": {"name": "cnn"}, "defence": {"name": "none"}}],
    "data": {"name": "digits"},
    "seed": 3,
}


def facts_of(tree):
    scenario = validate_scenario(tree, "test")
    inputs = read_run_inputs(scenario)
    models = arm_models(inputs, scenario.arms[0])
    return describe_model(
        inputs.scenario,
        models,
        provider_images(inputs),
        torch.device("cpu"),
    )


@pytest.fixture
def provider(tiny):
    tiny["training"] |= {"protocol": "provider", "provider": {"threads": 1}}
    return tiny


def changed(tree, path, value):
    tree = copy.deepcopy(tree)
    *parents, last = path.split(".")
    node = tree
    for key in parents:
        node = node[int(key)] if key.isdigit() else node.setdefault(key, {})
    node[last] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 4),
        ("data.max_images", 250),
        ("data.splits", {"training": 0.54, "validation": 0.09}),
        ("training.provider.epochs", 3),
        ("training.provider.optimiser", {"amsgrad": False}),
        ("training.provider.augmentation", {"horizontal_flip": True}),
        ("training.provider.precision", "bf16"),
        ("training.provider.share_of_training", 0.5),
        ("arms.0.front_end", {"name": "cnn", "cut": 2, "width": 8}),
        ("arms.0.defence", "nopeek"),
        ("arms.0.precision", "int8"),
        ("training.provider.threads", 2),
    ],
)
def test_everything_that_affects_the_weights_affects_the_key(provider, path, value):
    assert key_of(facts_of(changed(provider, path, value))) != key_of(facts_of(provider))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "other"),
        ("fleet.size", 9),
        ("arms.0.name", "renamed"),
        ("adversaries", []),
        ("training.fine_tune_rounds", 5),
        ("engine.device", "auto"),
        ("serving", {"horizon_s": 10.0}),
        ("engine.cloud_threads", 2),
        ("engine.shard_size", 4),
    ],
)
def test_nothing_else_affects_the_key(provider, path, value):
    if torch.cuda.is_available() and path.endswith("device"):
        pytest.skip("here the device does decide")
    facts = facts_of(changed(provider, path, value))
    assert facts == facts_of(provider)
    assert key_of(facts).startswith("cnn-none-digits-")


def test_the_key_has_the_threads_and_the_precision_that_this_machine_chooses(provider, monkeypatch):
    provider["training"]["provider"] = {"precision": "auto"}
    keys, precisions = set(), set()
    for cores, bf16 in ((2, True), (3, True), (3, False)):
        monkeypatch.setattr(machine, "available_cores", lambda cores=cores: cores)
        monkeypatch.setattr(machine, "has_bf16", lambda device, bf16=bf16: bf16)
        facts = facts_of(provider)
        keys.add(key_of(facts))
        precisions.add((facts["provider"]["precision"], f"{cores} threads" in facts["device"]))
    assert len(keys) == 3
    assert precisions == {("bf16", True), ("fp32", True)}


def test_other_pixels_give_another_key(provider):
    scenario = validate_scenario(provider, "test")
    inputs = read_run_inputs(scenario)
    models = arm_models(inputs, scenario.arms[0])
    images = provider_images(inputs)
    keys = set()
    for change in (0, 1):
        images.images[0, 0, 0, 0] += change
        facts = describe_model(
            scenario,
            models,
            images,
            torch.device("cpu"),
        )
        keys.add(key_of(facts))
    assert len(keys) == 2


def a_model():
    return TrainedModel(
        {"tier0.w": torch.rand(3, 2), "cloud.steps": torch.tensor(7)},
        [EpochRecord(1, 0.1 + 0.2, 0.0, 0.5, float("nan"), 1 / 3)],
        12,
        1,
    )


@pytest.fixture
def kept(tmp_path):
    model = a_model()
    save_model(tmp_path / "models", FACTS, model)
    return tmp_path / "models", model


def test_a_kept_model_is_restored_bit_by_bit(kept):
    folder, model = kept
    found = load_model(folder, FACTS, model.weights)
    assert found.weights.keys() == model.weights.keys()
    assert all(torch.equal(found.weights[name], model.weights[name]) for name in model.weights)
    assert repr(found.history) == repr(model.history)
    assert (found.steps, found.best_epoch) == (12, 1)
    assert len(list(folder.iterdir())) == 2
    assert load_model(folder, FACTS | {"seed": 4}, model.weights) is None


def _cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def _remove(path):
    path.unlink()


def _describe_another(path):
    said = json.loads(path.read_text())
    said["model"]["seed"] = 99
    path.write_text(json.dumps(said))


def _forget_a_key(path):
    said = json.loads(path.read_text())
    del said["history"]
    path.write_text(json.dumps(said))


def _change_the_kind(path):
    path.write_text("[1, 2]")


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("safetensors", _cut),
        ("safetensors", _flip_a_bit),
        ("safetensors", _remove),
        ("json", _cut),
        ("json", _describe_another),
        ("json", _forget_a_key),
        ("json", _change_the_kind),
    ],
)
def test_a_damaged_model_is_logged_and_replaced(kept, caplog, suffix, damage):
    folder, model = kept
    path = next(folder.glob(f"*.{suffix}"))
    intact = path.read_bytes()
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert load_model(folder, FACTS, model.weights) is None
    assert "the model is trained again" in caplog.text
    save_model(folder, FACTS, model)
    assert path.read_bytes() == intact


def test_weights_of_other_shapes_are_not_used(kept, caplog):
    folder, model = kept
    other = {**model.weights, "tier0.w": torch.zeros(2, 3)}
    with caplog.at_level(logging.WARNING):
        assert load_model(folder, FACTS, other) is None
    assert "other names or shapes" in caplog.text


def test_an_unwritable_folder_costs_a_log_line(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        assert load_model(blocked, FACTS, {}) is None
        save_model(blocked, FACTS, a_model())
    assert "was not kept" in caplog.text


def test_the_folder_is_chosen_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    assert str(models_folder()) == "models"
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert models_folder() == tmp_path
