"""Fixtures: small scenarios, device programs and data; groups of tests for parallel runs."""

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

import copy

import pytest
import yaml

import testbed.engine  # noqa: F401 - sets what Ray reads at its import, before a test imports Ray

# Fixtures import torch, flwr and the modules that use them: the controller of parallel runs loads
# this file before it starts the workers, and runs no fixture.


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items):
    """Divide the tests into groups, each of which one worker runs, and put the long ones first."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=_turn)


def _group(item):
    """Return the group of a test: its file by default, whose fixtures are then set up once."""
    if item.get_closest_marker("processes") is not None:
        return "processes"
    if "finished_run" in item.fixturenames:
        return "finished_run"
    return item.path.stem


def _turn(item):
    """Sort long groups before short ones, which then keep all workers busy to the end."""
    if _group(item) in ("processes", "finished_run"):
        return 0
    return 1 if "engine" in item.path.parts else 2


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Compute in one thread: workers share the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def tiny():
    """Return the tree of a scenario that runs in seconds; change it freely."""
    from small import TINY

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
    """Return the folder of a finished run of the tiny scenario with one round; do not change it."""
    from small import TINY

    from testbed.run import main

    folder = tmp_path_factory.mktemp("finished")
    tree = copy.deepcopy(TINY)
    tree["training"]["rounds"] = 1
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    assert main([str(folder / "tiny.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def without_figures(monkeypatch):
    """Skip drawing, which takes most of the time, in tests that do not look at figures."""
    for module in ("report", "compare"):
        monkeypatch.setattr(f"testbed.{module}.build.draw_all", lambda data: {})


@pytest.fixture
def identity():
    """Set the identity that Flower's messages need in the test process."""
    from testbed.engine.hosts.host import set_identity

    set_identity()


@pytest.fixture
def device_spec():
    """Return the specification of a small program: CNN cut after block 1, no defence."""
    from small import make_spec

    return make_spec()


@pytest.fixture
def host_data():
    """Return the random images of four devices, ten each."""
    import numpy as np

    from testbed.engine.hosts.host import HostData

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 1, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, 40)
    return HostData(images, labels, [np.arange(10) + 10 * device for device in range(4)])


@pytest.fixture(autouse=True)
def seeded():
    """Start every test with the same global random state."""
    import torch

    torch.manual_seed(0)
