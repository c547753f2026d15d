"""The order of the folders, circular imports, and which folders import Ray and Flower."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (
    "testbed/core",
    "testbed/wire",
    "testbed/scenario",
    "clients",
    "server",
    "testbed/data",
    "testbed/fleet",
    "testbed/adversaries",
    "testbed/privacy",
    "testbed/results",
    "testbed/pages",
    "testbed/report",
    "testbed/compare",
    "testbed/export",
    "testbed/engine/hosts",
    "testbed/engine/setting",
    "testbed/engine/network",
    "testbed/engine/training",
    "testbed/engine/serving",
    "testbed/engine/attacking",
    "testbed/engine/summary",
    "testbed/engine",
    "testbed",
)
"""Folders in the order of imports. A file imports from its own folder and those above it.

The last, ``testbed``, has the entry points: the commands, the Python API, profiles, sweeps and
Flower's runtimes.
"""
APART = ("clients", "server", "testbed/fleet", "testbed/adversaries")
"""Folders that import only ``testbed/core``, ``testbed/wire`` and ``testbed/scenario``."""
BASE = ("testbed/core", "testbed/wire", "testbed/scenario")
READERS = ("testbed/report", "testbed/compare", "testbed/export")
"""Folders that read results folders, and never the objects of a run."""
READ_WITH = (*BASE, "testbed/privacy", "testbed/results", "testbed/pages", "testbed/report")
PICKLES = ("testbed/engine/hosts/on_ray/shared_payloads.py",)  # what Ray would pickle itself
FLOWER = ("testbed/wire", "clients", "server", "testbed/engine", "testbed/flower")
RAY = ("testbed/engine/hosts/on_ray",)
PACKAGES = ("testbed", "clients", "server")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def below(relative, folder):
    return relative == folder or relative.startswith(folder + "/")


def top_folder_of(relative):
    return max((folder for folder in FOLDERS if below(relative, folder)), key=len)


@cache
def imported(path):
    """Return the modules that a file imports, also for type checking only."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def project_imports(path):
    """Return the project's files that a file imports, also for type checking only."""
    found = set()
    for name in imported(path):
        if name.split(".")[0] not in PACKAGES:
            continue
        target = ROOT / name.replace(".", "/")
        # The last part may be a name within the module.
        for candidate in (target, target.parent):
            file = candidate.with_suffix(".py")
            file = file if file.exists() else candidate / "__init__.py"
            if file.exists():
                found.add(file)
                break
    return found


def relative_to_root(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=relative_to_root)
def test_imports_point_one_way(path):
    relative = relative_to_root(path)
    own = top_folder_of(relative)
    for other in project_imports(path):
        theirs = top_folder_of(relative_to_root(other))
        assert FOLDERS.index(theirs) <= FOLDERS.index(own), f"{relative} imports {other}"
        if own in APART:
            assert theirs in (*BASE, own), f"{relative} imports {other}"
        if own in READERS:
            assert theirs in (*READ_WITH, own), f"{relative} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=relative_to_root)
def test_only_some_folders_import_flower_and_ray(path):
    relative = relative_to_root(path)
    names = {name.split(".")[0] for name in imported(path)}
    if "flwr" in names:
        assert any(below(relative, folder) for folder in FLOWER)
    if "ray" in names:
        assert any(below(relative, folder) for folder in RAY)
    unsafe = set() if relative in PICKLES else {"pickle", "cloudpickle", "dill"}
    assert not names & {*unsafe, "torchvision"}


def test_no_circular_import():
    finished, entered = set(), []

    def visit(path):
        if path in entered:
            circle = [relative_to_root(item) for item in [*entered[entered.index(path) :], path]]
            pytest.fail(f"circular import: {' -> '.join(circle)}")
        if path in finished:
            return
        entered.append(path)
        for other in sorted(project_imports(path)):
            if other.name != "__init__.py":
                visit(other)
        finished.add(entered.pop())

    for path in FILES:
        visit(path)


def test_folders_stay_readable():
    for folder in {path.parent for path in FILES}:
        assert len([*folder.glob("*.py")]) <= 20 + 1, folder  # beside __init__.py


def test_tests_lie_in_the_same_folders():
    tests = ROOT / "tests"
    for path in tests.rglob("test_*.py"):
        folder = path.parent.relative_to(tests)
        assert folder == Path(".") or (ROOT / folder).is_dir(), folder
    for folder in FOLDERS:
        assert any((tests / folder).rglob("test_*.py")), folder


def test_nothing_is_unpickled():
    for path in FILES:
        text = path.read_text()
        assert "allow_pickle=True" not in text
        assert "torch.load(" not in text
