"""Fixtures: small scenarios, programs and data that run in a second."""

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import copy

import numpy as np
import pytest
import torch
import yaml

from clients.program import EdgeProgram
from testbed.core.scenario import Component, EdgeOptimiserSection
from testbed.engine.host import HostData, set_identity

torch.set_num_threads(1)

TINY = {
    "name": "tiny",
    "seed": 3,
    "data": {"name": "digits", "max_images": 260},
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


@pytest.fixture
def tiny():
    """Return the tree of a scenario that runs in seconds; change it freely."""
    return copy.deepcopy(TINY)


@pytest.fixture
def write_scenario(tmp_path):
    """Return a function that writes a scenario tree to a file."""

    def write(tree, name="scenario.yaml"):
        path = tmp_path / name
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


@pytest.fixture
def identity():
    """Give the test process the identity that Flower's messages ask for."""
    set_identity()


@pytest.fixture
def program():
    """Return a small program: CNN cut after block 1, no defence."""
    return make_program()


def make_program(front_end="cnn", options=None, defence="none", defence_options=None, **changes):
    """Return a program for 1x32x32 images in 10 classes."""
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
    return EdgeProgram(**(values | changes))


@pytest.fixture
def host_data():
    """Return the random images of four devices, ten each."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 1, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, 40)
    return HostData(images, labels, [np.arange(10) + 10 * device for device in range(4)])


@pytest.fixture(autouse=True)
def seeded():
    """Start every test from the same global random state."""
    torch.manual_seed(0)
