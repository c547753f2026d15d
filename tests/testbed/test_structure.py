"""Imports point one way, and only the named places know Ray and Flower."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("testbed", "clients", "server")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# What each part may import of the project, by the longest matching prefix.
ALLOWED = {
    "testbed.core": {"testbed.core"},
    "clients": {"testbed.core", "clients"},
    "server": {"testbed.core", "server"},
    "testbed.data": {"testbed.core", "testbed.data"},
    "testbed.fleet": {"testbed.core", "testbed.fleet"},
    "testbed.adversaries": {"testbed.core", "testbed.adversaries"},
    "testbed.privacy": {"testbed.core", "testbed.privacy", "testbed.adversaries"},
    "testbed.report": {"testbed.core", "testbed.report"},
    "testbed.compare": {"testbed.core", "testbed.privacy", "testbed.report", "testbed.compare"},
    "testbed.export": {"testbed.core", "testbed.report", "testbed.export"},
}
# Flower: the apps, the strategies, the Grid with what carries its messages, and their conversions.
FLOWER = {
    "testbed/core/arrays.py",
    "testbed/core/records.py",
    "clients/edge.py",
    "server/split_federated.py",
    "server/serving.py",
    "server/strategies.py",
    "server/tiers.py",
    "testbed/engine/backend.py",
    "testbed/engine/checkpoint.py",
    "testbed/engine/grid.py",
    "testbed/engine/host.py",
    "testbed/engine/journal.py",
    "testbed/engine/losses.py",
    "testbed/engine/parcels.py",
    "testbed/engine/ray_actors.py",
    "testbed/engine/ray_backend.py",
    "testbed/engine/ray_hosts.py",
    "testbed/engine/serving.py",
    "testbed/engine/taps.py",
    "testbed/engine/training.py",
    "testbed/engine/wire_size.py",
    "testbed/flower/client.py",
    "testbed/flower/device_grid.py",
    "testbed/flower/server.py",
}
RAY = {
    "testbed/engine/ray_actors.py",
    "testbed/engine/ray_address.py",
    "testbed/engine/ray_backend.py",
    "testbed/engine/ray_cluster.py",
    "testbed/engine/ray_hosts.py",
    "testbed/engine/ray_jobs.py",
    "testbed/engine/ray_joined.py",
}


def imported(path):
    """Return the modules that a file imports, except for type checking only."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    relative = str(path.relative_to(ROOT))
    module = relative.removesuffix(".py").replace("/", ".")
    names = imported(path)
    part = next((part for part in ALLOWED if module.startswith(part + ".")), None)
    if part is not None:
        own = {name for name in names if name.split(".")[0] in PACKAGES}
        wrong = {
            name
            for name in own
            if name != "testbed"
            and not any(name == ok or name.startswith(ok + ".") for ok in ALLOWED[part])
        }
        assert not wrong
    if any(name.split(".")[0] == "flwr" for name in names):
        assert relative in FLOWER
    if any(name.split(".")[0] == "ray" for name in names):
        assert relative in RAY
    assert not names & {"pickle", "cloudpickle", "dill", "torchvision"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) < 400


def test_nothing_is_unpickled():
    for path in FILES:
        text = path.read_text()
        assert "allow_pickle=True" not in text
        assert "torch.load(" not in text
