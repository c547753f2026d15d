"""The fault campaign in small: its table, its document, and the most violent of its faults."""

import random

import fault_campaign
import pytest
import yaml
from faults.cases import Campaign, Outcome, driver_killed
from faults.runs import results_of, run

from testbed.report.marked import write_between


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    tree = yaml.safe_load(yaml.safe_dump(fault_campaign.SCENARIO))
    tree["training"]["rounds"] = 2
    tree["arms"] = tree["arms"][:1]
    folder = tmp_path_factory.mktemp("faults")
    (folder / "scenario.yaml").write_text(yaml.safe_dump(tree))
    state = Campaign(folder / "scenario.yaml", folder, random.Random(1))
    ended = run(state.scenario, folder / "whole", ("--set", "engine.backend=inline"))
    assert ended.exit_code == 0
    state.results, state.baseline_s = results_of(folder / "whole"), ended.wall_s
    return state


@pytest.mark.long
def test_a_killed_run_leaves_nothing_and_resumes_to_the_same_bytes(campaign):
    outcome = driver_killed(campaign, 1, resume=("--set", "engine.backend=inline"))
    assert outcome.passed, outcome


def test_the_table_goes_between_the_marks(tmp_path):
    outcomes = [
        Outcome("one", 3, "this", "a | b", True, True, 0, 0, 1.4),
        Outcome("two", 1, "that", "c", False, False, 2, 1, 9.6),
    ]
    path = tmp_path / "page.md"
    marks = fault_campaign.MARKS
    path.write_text(f"before\n{marks.begin}\nold\n{marks.end}\nafter\n")
    write_between(path, (marks, fault_campaign.table(outcomes)))
    lines = path.read_text().splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert "| one | 3 | this | a \\| b | yes | 0, 0 | 1 | passed |" in lines
    assert "| two | 1 | that | c | **NO** | 2, 1 | 10 | **FAILED** |" in lines
