"""The schema of results.json and host.json is what runs write: no key more, no key less."""

import copy
import json
from typing import get_args

import pytest
from small import TINY
from whole_runs import run

from testbed.results.host_facts import HostFacts
from testbed.results.schema import Part, Summary

MODELS = {"results.json": Summary, "host.json": HostFacts}
NOT_WRITTEN = {
    "Transfer.class_recovered": "the judge sees an adversary's own reconstructions only",
    "AmountPoint.class_recovered": "the judge sees an adversary's own reconstructions only",
}
"""Keys of the schema that no run below writes, each with the reason."""


def part_of(kind):
    """Return the part of the results that an annotation holds, or None."""
    if isinstance(kind, type) and issubclass(kind, Part):
        return kind
    return next((part for part in map(part_of, get_args(kind)) if part), None)


def declared(model):
    """Return every key of a model and of the parts under it, as Class.key."""
    keys = set()
    for name, field in model.model_fields.items():
        keys.add(f"{model.__name__}.{field.alias or name}")
        part = part_of(field.annotation)
        keys |= declared(part) if part else set()
    return keys


def written(model, tree):
    """Return every key of a tree as Class.key, by the models that declare what it holds."""
    keys = {f"{model.__name__}.{key}" for key in tree}
    for name, field in model.model_fields.items():
        part, value = part_of(field.annotation), tree.get(field.alias or name)
        for item in value if isinstance(value, list) else [value]:
            keys |= written(part, item) if part and item is not None else set()
    return keys


def attacked_tree():
    """Return a run with tiers, an attack in training, every kind of attack, and all measures."""
    tree = copy.deepcopy(TINY)
    tree["training"]["rounds"] = 1
    tree["evaluation"]["mutual_information"] = True
    front_end = tree["arms"][0]["front_end"]
    tree["arms"] = [
        {"name": "honest", "front_end": front_end, "defence": {"name": "gaussian_noise"}},
        {"name": "hijacked", "front_end": front_end, "hijacked_by": "malicious"},
    ]
    rounded = {"name": "rounded", "devices": ["mcu"], "defence": {"scale": 1.0}, "arms": ["honest"]}
    tree["fleet"]["assignments"] = [rounded]
    cloud = {"position": {"tap": "cloud"}}
    fsha = {"name": "fsha", "pilot_steps": 2, "updates_per_step": 1}
    decoder = {"name": "residual_decoder", "max_epochs": 1}
    tree["adversaries"] = [
        {"name": "decodes", **cloud, "attack": decoder, "transfer": True, "curve": [0.5]}
        | {"victims": "both"},
        {"name": "infers", **cloud, "attack": "label_inference"},
        {"name": "malicious", **cloud, "attack": fsha, "victims": "both"},
    ]
    return tree


def provider_tree():
    """Return a run whose model a provider has trained."""
    tree = copy.deepcopy(TINY)
    tree["training"] = {
        "protocol": "provider",
        "reuse_models": False,
        "provider": {"epochs": 1, "batch_size": 32},
    }
    tree["arms"], tree["adversaries"] = tree["arms"][:1], []
    return tree


@pytest.fixture(scope="module")
def runs(tmp_path_factory, finished_run):
    folder = tmp_path_factory.mktemp("schema")
    trees = {"attacked": attacked_tree(), "provider": provider_tree()}
    return [finished_run, *(run(tree, folder / name) for name, tree in trees.items())]


@pytest.mark.parametrize("file", MODELS)
def test_the_schema_has_every_key_written_and_runs_write_every_key_of_the_schema(file, runs):
    model = MODELS[file]
    keys = set()
    for folder in runs:
        tree = json.loads((folder / file).read_text())
        keys |= written(model, tree)
        assert model.model_validate(tree).tree() == tree
    assert keys - declared(model) == set()
    assert declared(model) - keys == {key for key in NOT_WRITTEN if file == "results.json"}
