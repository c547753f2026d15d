"""A command imports only what it uses: each runs in a process whose modules are then read."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILER = {"torch._dynamo", "torch._inductor", "sympy"}
DATA_LIBRARIES = {"datasets", "flwr_datasets", "pandas", "sklearn"}
COMMANDS = ("run", "compare", "devices", "export", "load", "models", "profile", "validate_costs")
PROGRAM = """
import importlib, runpy, sys
unwanted, sys.argv = sys.argv[1].split(","), sys.argv[2:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as ended:
    assert not ended.code, ended.code
found = [name for name in unwanted if name in sys.modules]
assert not found, f"imported: {found}"
"""


def imports_none_of(unwanted, *command, cwd=ROOT, **environment):
    """Run a command and check that it imports none of these modules; return what it prints."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(sorted(unwanted)), *command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_needs_nothing(command):
    unwanted = {"torch", "flwr", "ray", "numpy", "pydantic", "rich", "yaml", "pyarrow", "scipy"}
    assert "usage" in imports_none_of(unwanted, f"testbed.{command}", "--help")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project's packages in a folder of their own."""
    folder = tmp_path_factory.mktemp("copy")
    for package in ("testbed", "clients", "server"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    return folder


OWN_DEFENCE = """
from clients.defences.base import Defence
from testbed.core.registries import DEFENCES

@DEFENCES.register("my_own_defence", "added after the last listing")
class Own(Defence):
    pass
"""


def test_a_second_listing_imports_no_component_and_knows_new_ones(copy):
    def listed(unwanted):
        return imports_none_of(
            unwanted,
            *("testbed.run", "--list"),
            cwd=copy,
            PYTHONPATH=str(copy),
            PYTHONDONTWRITEBYTECODE="",
        )

    first = listed(set())
    assert "my_own_defence" not in first
    assert listed({"torch", "flwr", "numpy", "pydantic"}) == first
    (copy / "clients" / "defences" / "mine.py").write_text(OWN_DEFENCE)
    assert "my_own_defence" in listed(set())
    assert "my_own_defence" in listed({"torch"})


def test_nothing_is_kept_where_python_keeps_no_compiled_modules(copy):
    (copy / "clients" / "defences" / "mine.py").unlink(missing_ok=True)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.json")}
    environment = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    imports_none_of(set(), "testbed.run", "--list", cwd=copy, **environment)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*.json")} == before


def test_a_dry_run_loads_no_compiler_and_no_library_of_data():
    unwanted = COMPILER | DATA_LIBRARIES | {"ray", "matplotlib", "scipy", "pyarrow"}
    out = imports_none_of(unwanted, "testbed.run", "scenarios/smoke.yaml", "--dry-run")
    assert "nothing was written" in out


def test_a_dry_run_visits_its_objects_in_no_full_collection():
    program = PROGRAM + 'import gc; print("full collections:", gc.get_stats()[2]["collections"])'
    command = ("none", "testbed.run", "scenarios/smoke.yaml", "--dry-run")
    run = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True)
    assert run.stdout.endswith("full collections: 0\n")


def test_a_run_loads_no_compiler_and_no_library_of_data_that_it_does_not_use(tmp_path):
    unwanted = COMPILER | {"datasets", "flwr_datasets", "ray"}
    imports_none_of(
        unwanted,
        *("testbed.run", "scenarios/smoke.yaml", "--out", str(tmp_path / "run")),
        *("--set", "engine.backend=inline", "--set", "fleet.size=4"),
        *("--set", "training.cohort_size=2", "--set", "training.rounds=1"),
    )
