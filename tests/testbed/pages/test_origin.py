"""The origin of measured tables, and the marks of those that may be out of date."""

import pytest

from testbed.core.errors import UserError
from testbed.core.project import VERSION
from testbed.pages import origin
from testbed.pages.origin import digest_of, marked, of_files, of_run, why_older
from testbed.scenario.loading import load_scenario

SCENARIO = """\
name: first
fleet: {size: 4, mix: [{device: raspberry-pi-4}]}
training: {cohort_size: 2}
arms: [{name: plain, front_end: cnn, defence: none}]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a folder that stands in for the project's, with one scenario and one program."""
    monkeypatch.setattr(origin, "PROJECT_ROOT", tmp_path)
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "first.yaml").write_text(SCENARIO)
    (tmp_path / "measure.py").write_text('"""Measure."""\n\nROUNDS = 3  # few\n')
    return tmp_path


def table(inputs, seeds=(0,)):
    return f"| a |\n|---|\n| 1 |\n\n{of_files(inputs, seeds).line()}"


@pytest.mark.parametrize(
    ("change", "older"),
    [
        (lambda text: text.replace("size: 4", "size: 5"), True),
        (lambda text: text.replace("cohort_size: 2", "rounds: 7, cohort_size: 2"), True),
        (lambda text: "# a comment\n" + text.replace("first", "second"), False),
        (lambda text: text + "seed: 9\nengine: {hosts: 3}\n", False),
    ],
)
def test_a_table_is_older_once_its_scenario_decides_other_figures(project, change, older):
    path = project / "scenarios" / "first.yaml"
    text = table([path])
    assert why_older(text) == []
    path.write_text(change(path.read_text()))
    assert why_older(text) == (["`scenarios/first.yaml` has changed since"] if older else [])


@pytest.mark.parametrize(
    ("source", "older"),
    [
        ("ROUNDS = 4\n", True),
        ('"""Measures more."""\n\n# Three are enough.\nROUNDS = 3\n', False),
    ],
)
def test_code_is_compared_without_comments_and_docstrings(project, source, older):
    text = table([project / "measure.py"])
    assert "`measure.py` " in text
    (project / "measure.py").write_text(source)
    assert bool(why_older(text)) == older
    (project / "measure.py").unlink()
    assert why_older(text) == ["`measure.py` no longer exists"]


def test_all_files_of_a_folder_count(project):
    folder = project / "speed"
    folder.mkdir()
    with pytest.raises(UserError, match="no such file"):
        digest_of(folder)
    (folder / "one.py").write_text("A = 1\n")
    before = digest_of(folder)
    (folder / "two.py").write_text("A = 1\n")
    assert digest_of(folder) != before


def test_tables_of_earlier_versions_and_without_an_origin_are_older(project):
    text = table([project / "measure.py"])
    assert why_older(text.replace(f"testbed {VERSION}", "testbed 0.0.9")) == [
        f"made with testbed 0.0.9, this is {VERSION}"
    ]
    (reason,) = why_older("| a |\n|---|")
    assert reason.startswith("made with testbed 0.1 or earlier")


def test_the_mark_comes_and_goes_with_its_reason(project):
    path = project / "scenarios" / "first.yaml"
    text = table([path])
    assert marked(text) == text
    path.write_text(SCENARIO.replace("size: 4", "size: 5"))
    once = marked(text)
    assert once.startswith(
        "> **May be out of date:** `scenarios/first.yaml` has changed since.\n\n"
    )
    assert marked(once) == once
    path.write_text(SCENARIO)
    assert marked(once) == text


def test_runs_state_how_they_differ_from_their_scenario(project):
    path = project / "scenarios" / "first.yaml"
    run = load_scenario(path, ["training.rounds=3", "seed=5", "engine.hosts=2"]).model_dump(
        mode="json"
    )
    rounds = load_scenario(path).training.rounds
    line = of_run("first", run, [5, 6], {"testbed": VERSION, "torch": "2"}).line()
    assert line == (
        f"Origin: testbed {VERSION}, torch 2; `scenarios/first.yaml` {digest_of(path)} with "
        f"training.rounds 3 instead of {rounds}; seeds 5, 6."
    )
    assert why_older(f"| a |\n\n{line}") == []
    other = of_run("mine", run, [5], {"testbed": VERSION}).line()
    assert "scenario mine, which is not the project's" in other


def test_arms_are_compared_by_name_not_by_place(project):
    path = project / "scenarios" / "first.yaml"
    path.write_text(
        SCENARIO.replace("arms: [", "arms: [{name: deep, front_end: cnn, defence: none}, ")
    )
    run = load_scenario(path).model_dump(mode="json")
    run["arms"].reverse()
    assert " with " not in of_run("first", run, [0], {"testbed": VERSION, "torch": "2"}).line()


def test_inputs_that_are_not_the_projects_are_named_and_not_checked(project, tmp_path_factory):
    own = tmp_path_factory.mktemp("elsewhere") / "mine.yaml"
    own.write_text(SCENARIO)
    text = table([own])
    assert f"; mine.yaml {digest_of(own)}, which is not the project's; seed 0." in text
    own.unlink()
    assert why_older(text) == []
