"""Fixtures: small scenarios, programs and data that run in a second."""

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import copy

import numpy as np
import pytest
import torch
import yaml
from small import TINY, make_spec

from testbed.engine.hosts.host import HostData, set_identity

torch.set_num_threads(1)

STARTS_PROCESSES = {
    "test_command_line.py",
    "test_drawn_scenarios.py",
    "test_fault_campaign.py",
    "test_flower_loopback.py",
    "test_flower_runtime.py",
    "test_head_dies.py",
    "test_offline.py",
    "test_offload_raw.py",
    "test_python_api.py",
    "test_ray_backend.py",
    "test_ray_watchdog.py",
    "test_external_cluster.py",
    "test_shared_ray.py",
    "test_sweep.py",
    "test_tutorials.py",
}
"""Files whose tests start Ray, or Flower's own processes, and look at which processes there are.

``test_same_bits.py`` is not among them: it looks at its own children only, and takes as long as all
of these together.
"""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items):
    """Keep a file's tests in one process, which shares its fixtures; and those above in one."""
    for item in items:
        group = "processes" if item.path.name in STARTS_PROCESSES else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


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


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """Return the folder of one finished run of the tiny scenario with one round; do not change."""
    from testbed.run import main

    folder = tmp_path_factory.mktemp("finished")
    tree = copy.deepcopy(TINY)
    tree["training"]["rounds"] = 1
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    assert main([str(folder / "tiny.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def identity():
    """Give the test process the identity that Flower's messages ask for."""
    set_identity()


@pytest.fixture
def device_spec():
    """Return a small program: CNN cut after block 1, no defence."""
    return make_spec()


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
