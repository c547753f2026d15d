"""A small scenario, and small device programs and batches, for tests to change."""

import json
from types import NoneType, UnionType
from typing import Literal, get_args, get_origin

import torch

from clients.defences.base import Batch
from clients.deployed import DeployedFrontEnd
from clients.device_spec import DeviceSpec
from testbed.results.columns import arrow_schema
from testbed.results.schema import Summary
from testbed.results.writing import write_table
from testbed.scenario.components import Component
from testbed.scenario.training import EdgeOptimiserSection

TINY = {
    "name": "tiny",
    "seed": 3,
    "data": {"name": "digits", "max_images": 260, "image_size_px": 16},
    "fleet": {
        "size": 8,
        "mix": [
            {"device": "raspberry-pi-4", "weight": 3, "links": {"wifi": 1, "lte": 1}},
            {"device": "nucleo-h7a3zi", "weight": 1, "links": {"ble": 1}},
        ],
        "availability": {"name": "bernoulli", "probability": 0.9},
    },
    "training": {
        "rounds": 3,
        "cohort_size": 4,
        "local_steps": 2,
        "batch_size": 6,
        "round_deadline_s": 600.0,
    },
    "arms": [
        {"name": "undefended", "front_end": {"name": "cnn", "cut": 1, "width": 8}},
        {
            "name": "sift",
            "front_end": {"name": "cnn", "cut": 2, "width": 8},
            "defence": "siftfunnel",
        },
    ],
    "adversaries": [
        {"name": "eaves", "position": {"tap": "links", "share_of_links": 0.5}, "attack": "ridge"},
        {"name": "cloud", "position": {"tap": "cloud"}, "attack": "ridge"},
    ],
    "engine": {"backend": "inline", "shard_size": 2, "cloud_threads": 1},
    "evaluation": {"bootstrap_resamples": 100, "reconstructions_shown": 4},
}


def make_spec(front_end="cnn", options=None, defence="none", defence_options=None, **changes):
    """Return the specification of a device program for 1x32x32 images in 10 classes."""
    if options is None:
        options = {"cut": 1, "width": 8}
    values = {
        "arm": "test",
        "seed": 5,
        "front_end": Component(name=front_end, options=options),
        "defence": Component(name=defence, options=defence_options or {}),
        "image_shape": (1, 32, 32),
        "num_classes": 10,
        "channel_mean": (0.3,),
        "channel_std": (0.4,),
        "batch_size": 4,
        "optimiser": EdgeOptimiserSection(
            learning_rate=0.1, momentum=0.9, weight_decay=0.01, clip_norm=1.0
        ),
    }
    return DeviceSpec(**(values | changes))


def make_deployed(**changes):
    """Return the front-end of ``make_spec(**changes)`` as deployed, with its initial weights."""
    device_spec = make_spec(**changes)
    parameters, statistics = device_spec.build().initial_weights()
    return DeployedFrontEnd(
        device_spec,
        {name: value.numpy() for name, value in parameters.items()},
        {name: value.numpy() for name, value in statistics.items()},
    )


def make_batch(x, z, pre_funnel=None, labels=None, released=None):
    """Return a training batch; the labels default to 0, 1, 2, ..."""
    labels = torch.arange(len(x)) % 10 if labels is None else labels
    return Batch(x, labels, z, z if released is None else released, pre_funnel)


def write_rows(folder, table, rows):
    """Write a table of a run; columns that a row does not have are null."""
    absent = dict.fromkeys(arrow_schema(table).names)
    write_table(folder / f"{table}.parquet", table, [absent | row for row in rows])


def write_results(folder, tree):
    """Write results.json; keys that the tree lacks are null or empty."""
    text = json.dumps(filled(Summary, tree), indent=1)
    (folder / "results.json").write_text(text, encoding="utf-8")


def filled(model, tree):
    """Return a part of the results with the keys that it lacks: null if allowed, else empty."""
    tree = dict(tree)
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key in tree:
            tree[key] = _filled(field.annotation, tree[key])
        elif field.is_required():
            tree[key] = _empty(field.annotation)
    return tree


def _filled(kind, value):
    models = [item for item in (kind, *get_args(kind)) if hasattr(item, "model_fields")]
    if isinstance(value, list) and models:
        return [filled(models[0], item) for item in value]
    return filled(models[0], value) if isinstance(value, dict) and models else value


def _empty(kind):
    choices, origin = get_args(kind), get_origin(kind)
    if NoneType in choices:
        return None
    if origin is Literal:
        return choices[0]
    if hasattr(kind, "model_fields"):
        return filled(kind, {})
    return choices[0]() if origin is UnionType else (origin or kind)()
