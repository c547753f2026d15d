"""The tutorials do what they say: every block is executed, in order, in one folder."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from testbed.core.registries import ALL

TUTORIALS = sorted((Path(__file__).resolve().parents[2] / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)( fails)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_command(line):
    """Run ``python -m MODULE ARGUMENTS`` in this process; return its exit code."""
    python, dash_m, module, *arguments = shlex.split(line)
    assert (python, dash_m) == ("python", "-m"), line
    try:
        found = importlib.import_module(f"{module}.__main__")
    except ModuleNotFoundError:
        found = importlib.import_module(module)
    return found.main(arguments)


@pytest.mark.usefixtures("without_figures")
def test_tutorials_run_as_they_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for registry in ALL.values():  # what the tutorials register is gone afterwards
        monkeypatch.setattr(registry, "_entries", {entry.name: entry for entry in registry})
    executed = {"yaml": 0, "sh": 0, "python": 0, "text": 0}
    for tutorial in TUTORIALS:
        names = {"__name__": "tutorial"}
        error = ""
        for kind, fails, text in BLOCK.findall(tutorial.read_text(encoding="utf-8")):
            executed[kind] += 1
            if kind == "yaml":
                Path(text.splitlines()[0].removeprefix("# ")).write_text(text)
            elif kind == "sh":
                for line in text.splitlines():
                    assert run_command(line) == (2 if fails else 0), line
                error = capsys.readouterr().err.strip()
            elif kind == "text":  # the message that the command before has printed
                assert error.startswith(text.strip())
            else:
                exec(compile(text, f"{tutorial.name}", "exec"), names)
    assert executed == {"yaml": 1, "sh": 2, "python": 9, "text": 1}
    printed = capsys.readouterr().out
    for words in ("ridge beats the mean image on", "clipped_noise", "bytes per image"):
        assert words in printed
    assert not (tmp_path / "results" / "second").exists()


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.name)
def test_links_of_the_tutorials_lead_somewhere(tutorial):
    links = re.findall(r"\]\(([^)#]+)\)", tutorial.read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert (tutorial.parent / link).exists(), link
