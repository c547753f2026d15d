"""Kept models are keyed by all code and files that decide their weights, a user's own included."""

import copy
import importlib
import json
import os
import runpy
import subprocess
import sys

import pytest
import torch

from testbed.core.registries import DEFENCES, FRONT_ENDS
from testbed.engine.setting.models import arm_models
from testbed.engine.setting.run_context import read_run_inputs
from testbed.engine.training.code_files import NotHashableError, imports_of, source_file
from testbed.engine.training.code_values import CodeFiles, CodeValues
from testbed.engine.training.model_key import describe_code, entries_of
from testbed.scenario.loading import validate_scenario

OWN = """
import torch
from clients.defences.base import Defence
from testbed.core.registries import DEFENCES
from testbed.core.registry import Options
from own_package import maker

STRENGTH = 1.0
TABLE = torch.load("table.pt")


class OwnOptions(Options):
    weights: str = "weights.pt"


def scaled(factor):
    def scale(z):
        return z * factor
    return scale


@DEFENCES.register("own", "multiplies the features", OwnOptions)
class Own(Defence):
    scale = staticmethod(scaled(2.0))

    def release(self, z, rng):
        return self.scale(maker.changed(z)) * STRENGTH * TABLE[0] * torch.load("named.pt")[0]
"""
FILES = {
    "own_parts.py": OWN,
    "own_package/__init__.py": "",
    "own_package/maker.py": "from .deep import below\n\n\ndef changed(z):\n    return below(z)\n",
    "own_package/deep.py": "def below(z):\n    return z + 1\n",
    "own_package/unrelated.py": "VALUE = 1\n",
}
TENSORS = ("table.pt", "named.pt", "weights.pt", "unrelated.pt")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write the files of a user's defence into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in TENSORS:
        torch.save(torch.ones(2), tmp_path / name)
    yield tmp_path
    forget()


def forget():
    """Forget the user's modules and what they registered."""
    for name in [name for name in sys.modules if name.startswith("own_pa")]:
        del sys.modules[name]
    DEFENCES._entries.pop("own", None)
    importlib.invalidate_caches()


def loaded():
    """Return the user's module, newly imported."""
    DEFENCES.names()
    forget()
    return importlib.import_module("own_parts")


def code_of(tree, defence="own"):
    tree = copy.deepcopy(tree)
    tree["arms"] = [tree["arms"][0] | {"defence": defence}]
    scenario = validate_scenario(tree, "test")
    return describe_code(arm_models(read_run_inputs(scenario), scenario.arms[0]))


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("own_parts.py", "* STRENGTH", "+ STRENGTH"),
        ("own_parts.py", "STRENGTH = 1.0", "STRENGTH = 2.0"),
        ("own_parts.py", "return z * factor", "return z / factor"),
        ("own_package/maker.py", "return below(z)", "return below(z) + 1"),
        ("own_package/deep.py", "z + 1", "z + 2"),
        ("own_package/__init__.py", "", "import torch\n"),
    ],
)
def test_a_change_of_own_code_changes_the_hash(own, tiny, file, old, new):
    loaded()
    before = code_of(tiny)
    loaded()
    assert code_of(tiny) == before
    replace(own / file, old, new)
    loaded()
    assert code_of(tiny)["files_sha256"] != before["files_sha256"]


@pytest.mark.parametrize("name", ["table.pt", "named.pt", "weights.pt"])
def test_a_change_of_a_weights_file_changes_the_hash(own, tiny, name):
    loaded()
    before = code_of(tiny)
    torch.save(torch.zeros(2), own / name)
    loaded()
    after = code_of(tiny)
    assert after["values_sha256"] != before["values_sha256"]
    assert after["files_sha256"] == before["files_sha256"]


def test_files_of_a_folder_in_an_option_count(own, tiny):
    loaded()
    (own / "teacher").mkdir()
    (own / "teacher" / "a.bin").write_bytes(b"1")
    option = {"name": "own", "weights": "./teacher"}
    before = code_of(tiny, option)
    (own / "teacher" / "a.bin").write_bytes(b"2")
    assert code_of(tiny, option) != before


def test_values_that_are_set_while_a_script_runs_count(own, tiny):
    module = loaded()
    before = code_of(tiny)
    module.STRENGTH = 0.0
    strong = code_of(tiny)
    assert strong["values_sha256"] != before["values_sha256"]
    module.Own.scale = staticmethod(module.scaled(3.0))
    assert code_of(tiny)["values_sha256"] not in (before["values_sha256"], strong["values_sha256"])


def test_nothing_else_changes_the_hash(own, tiny):
    loaded()
    before = code_of(tiny)
    (own / "own_package" / "unrelated.py").write_text("VALUE = 2\n")
    torch.save(torch.zeros(2), own / "unrelated.pt")
    loaded()
    assert code_of(tiny) == before


def test_dataclasses_and_types_of_own_code_are_hashed(own, tiny):
    (own / "own_package" / "maker.py").write_text(
        "from dataclasses import dataclass\n\nEITHER = int | None\nMANY = list[int]\n\n\n"
        "@dataclass(frozen=True, order=True)\nclass Amount:\n    value: float = 1.0\n\n\n"
        "def changed(z):\n    return z * Amount().value if EITHER or MANY else z\n"
    )
    loaded()
    before = code_of(tiny)
    loaded()
    assert code_of(tiny) == before
    replace(own / "own_package" / "maker.py", "1.0", "2.0")
    loaded()
    assert code_of(tiny)["values_sha256"] != before["values_sha256"]


def test_packages_count_with_their_version(own, tiny):
    loaded()
    packages = code_of(tiny)["packages"]
    assert packages["torch"] == torch.__version__
    assert packages["python"] == sys.version.split()[0]
    assert "own_package" not in packages


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "exec('def release(self, z, rng): return z', globals())\nOwn.release = release",
            "release is in no file",
        ),
        (
            "Own.release = lambda self, z, rng: eval('z')",
            "calls eval, which may run any code",
        ),
        (
            "FILE = open('table.pt')\nOwn.release = lambda self, z, rng: FILE and z",
            "object of TextIOWrapper, whose content cannot be told",
        ),
    ],
)
def test_what_cannot_be_told_is_not_hashed(own, tiny, change, says):
    (own / "own_parts.py").write_text(f"{OWN}\n\n{change}\n")
    loaded()
    with pytest.raises(NotHashableError, match=f"defence 'own': .*{says}"):
        code_of(tiny)


def test_code_that_has_changed_since_it_was_imported_is_not_hashed(own, tiny):
    loaded()
    replace(own / "own_package" / "deep.py", "z + 1", "z + 2")
    with pytest.raises(NotHashableError, match=r"below that runs is not the one that .*deep.py"):
        code_of(tiny)


def test_a_script_that_another_runs_is_not_hashed(own, tiny):
    DEFENCES.names()
    script = "import own_package.maker\n" + OWN
    (own / "script.py").write_text(script)
    runpy.run_path(str(own / "script.py"))
    with pytest.raises(NotHashableError, match="the module <run_path> of Own has no file"):
        code_of(tiny)


def test_a_factory_in_a_script_that_another_runs_is_hashed_with_its_file(own):
    def hashed(text):
        (own / "script.py").write_text(text)
        files = CodeFiles()
        CodeValues(files).add(runpy.run_path(str(own / "script.py"))["make"])
        return files.sources

    text = "import own_package.deep\n\ndef make(options):\n    return own_package.deep.below(1)\n"
    before = hashed(text)
    assert text.encode() in before.values()
    assert "own_package.deep" in before
    assert hashed(text.replace("below(1)", "below(2)")) != before


def test_an_interactive_session_has_no_file(monkeypatch):
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    with pytest.raises(NotHashableError, match="an interactive session"):
        source_file("__main__")


def test_every_component_of_the_project_is_hashed_and_the_same_again(tiny):
    for defence in DEFENCES.names():
        assert code_of(tiny, defence) == code_of(tiny, defence)


def test_values_of_equal_content_are_equal():
    def hashed(value):
        values = CodeValues(CodeFiles())
        values.add(value)
        return values.hexdigest()

    same = [1, 1.5, "x", {"a": (1, [2])}, {"c", "b", "a"}, torch.ones(2, 3), None]
    assert hashed(same) == hashed(copy.deepcopy(same))
    others = [2, 1, "1", 1.0, True, [1], (1,), {1}, {"1": 1}, torch.ones(1), torch.ones(1).long()]
    assert len({hashed(value) for value in others}) == len(others)


def test_imports_of_all_forms_are_found():
    import ast

    text = "import a.b\nfrom . import c\nfrom ..d import e\ndef f():\n    from g import h\n"
    found = imports_of(ast.parse(text), "top.sub")
    assert {"a", "a.b", "top.sub.c", "top.d", "top.d.e", "g", "g.h"} <= found
    ours = "from clients.defences import base\nimport testbed.report.html\n"
    assert imports_of(ast.parse(ours), "x") >= {"clients.defences.base"}
    assert not any("report" in name for name in imports_of(ast.parse(ours), "x"))


def test_entries_of_a_wrapped_component():
    wrapped = {"name": "nopeek", "alpha": 1.0, "inner": {"name": "vib", "beta": 0.1}}
    assert [entry.name for entry in entries_of(DEFENCES, wrapped)] == ["nopeek", "vib"]
    assert [entry.name for entry in entries_of(FRONT_ENDS, {"name": "cnn"})] == ["cnn"]


SCRIPT = """
import json, sys
from clients.defences.base import Defence
from testbed import run_scenario
from testbed.core.registries import DEFENCES

@DEFENCES.register("own", "multiplies the features")
class Own(Defence):
    def release(self, z, rng):
        return z * 0.0

scenario = json.loads(sys.argv[2])
result = run_scenario(scenario, out=sys.argv[1], progress=False)
print(result.headline.to_pylist()[0]["test_accuracy"])
"""


@pytest.mark.processes
def test_a_defence_that_is_changed_in_a_script_is_trained_anew(tiny, tmp_path):
    tiny["training"]["protocol"] = "provider"
    tiny["training"]["provider"] = {"epochs": 12}
    tiny["data"]["max_images"] = 700
    tiny["adversaries"] = []
    tiny["arms"] = [tiny["arms"][0] | {"defence": "own"}]
    script = tmp_path / "own.py"

    def accuracy(name, text):
        script.write_text(text)
        words = [sys.executable, str(script), str(tmp_path / name), json.dumps(tiny)]
        path = os.pathsep.join(part for part in sys.path if part)
        shown = subprocess.run(
            words,
            env=os.environ | {"TESTBED_MODELS_DIR": str(tmp_path / "models"), "PYTHONPATH": path},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        (origin,) = json.loads((tmp_path / name / "host.json").read_text())["models"]
        return float(shown.stdout.split()[-1]), origin["reused"]

    first = accuracy("first", SCRIPT)
    assert first[0] < 0.25
    assert accuracy("again", SCRIPT) == (first[0], True)
    after, reused = accuracy("after", SCRIPT.replace("z * 0.0", "z"))
    assert after > 0.8
    assert not reused
