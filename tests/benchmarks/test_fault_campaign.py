"""The fault campaign: its table, its supervision of runs, and its most violent fault."""

import random
import subprocess
import sys
import time

import fault_campaign
import pytest
import yaml
from faults import runs
from faults.campaign import INLINE, Campaign, Case, Moment, Outcome
from faults.cases import inject
from faults.disks import NAMESPACE, NO_MOUNT, SCRIPT, mounts_are_permitted, occupied_bytes
from faults.kills import _with_time_for, driver_killed
from faults.runs import OutOfTimeError, Watched

from testbed.engine.hosts.on_ray.watchdog import alive
from testbed.pages.documents import write_blocks

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    tree = yaml.safe_load(yaml.safe_dump(fault_campaign.SCENARIO))
    tree["training"]["rounds"] = 2
    tree["arms"] = tree["arms"][:1]
    folder = tmp_path_factory.mktemp("faults")
    (folder / "scenario.yaml").write_text(yaml.safe_dump(tree))
    state = Campaign(folder / "scenario.yaml", folder, random.Random(1))
    state.deadline = time.monotonic() + 300.0
    assert state.run(folder / "whole", INLINE).exit_code == 0
    state.refer_to(folder / "whole")
    return state


@pytest.mark.long
def test_a_killed_run_leaves_nothing_and_resumes_to_the_same_bytes(campaign):
    outcome = driver_killed(campaign, 1, resume=INLINE)
    assert outcome.passed, outcome


def test_the_table_goes_between_the_marks(tmp_path):
    outcomes = [
        Outcome("one", 3, "this", "a | b", True, True, 0, (), 1.4, 60.0),
        Outcome("two", 1, "that", "c", False, False, 2, ("sf-x",), 9.6, 60.0),
    ]
    path = tmp_path / "page.md"
    block = fault_campaign.BLOCK
    path.write_text(f"before\n{block.begin}\nold\n{block.end}\nafter\n")
    write_blocks(path, {block: fault_campaign.table(outcomes)})
    lines = path.read_text().splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert "| one | 3 | this | a \\| b | yes | 0 | 0 | 1 of 60 | passed |" in lines
    assert "| two | 1 | that | c | **NO** | 2 | **sf-x** | 10 of 60 | **FAILED** |" in lines


# Supervision ------------------------------------------------------------------------------------


def watched(tmp_path, code, limit_s=60.0):
    """Start Python code with the path of its temporary folder as its argument."""
    temporary, errors = tmp_path / "temporary", tmp_path / "errors"
    temporary.mkdir()
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(temporary)],
            stderr=file,
            text=True,
            env={"TMPDIR": str(temporary)},
        )
    return Watched(process, temporary, errors, time.monotonic() + limit_s)


def test_a_hanging_run_is_killed_with_its_children(tmp_path):
    code = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("begun", file=sys.stderr, flush=True)
time.sleep(600)
"""
    hangs = watched(tmp_path, code)
    assert hangs.wait_until(lambda: "begun" in hangs.errors_file.read_text())
    children = hangs.children("python")
    hangs.deadline = time.monotonic()
    with pytest.raises(OutOfTimeError, match="was not over"):
        hangs.end()
    assert children
    due = time.monotonic() + 30.0
    while any(alive(process) for process in children):
        assert time.monotonic() < due
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_are_counted_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "GONE_WITHIN_S", 0.2)
    code = """
import pathlib, subprocess, sys
(pathlib.Path(sys.argv[1]) / "any name").mkdir()
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("failed: the disk is full", file=sys.stderr)
"""
    ended = watched(tmp_path, code).end()
    assert ended.left == ("any name",)
    assert ended.processes_left == 1  # though its parent is gone
    assert ended.is_one_sentence
    assert list(tmp_path.iterdir()) == []


def test_moments_are_within_the_given_phases(tmp_path):
    phases = [("load", 4.0), ("train a", 2.0), ("serve a", 0.5), ("write", 1.0)]
    campaign = Campaign(tmp_path, tmp_path, random.Random(0), phases=phases)
    drawn = [campaign.random_moment(["train a", "serve a"]) for _ in range(200)]
    share = sum(moment.phase == "train a" for moment in drawn) / len(drawn)
    assert 0.7 < share < 0.9  # in proportion to their seconds
    assert all(0.0 <= moment.after_s <= dict(phases)[moment.phase] for moment in drawn)
    said = "load: done\ntrain a: done (round 2/2)\n"
    code = f"import sys, time; print({said!r}, file=sys.stderr, flush=True); time.sleep(0.5)"
    process = watched(tmp_path, code)
    assert campaign.reach(process, Moment("serve a", 0.1))
    assert campaign.phase_now(process) == "serve a"
    assert not campaign.reach(process, Moment("write", 0.0))  # never comes
    process.end()


def test_a_case_that_hangs_or_takes_too_long_has_failed(tmp_path):
    campaign = Campaign(tmp_path, tmp_path, random.Random(0), run_s=10.0)

    def hangs(campaign, repeats):
        raise OutOfTimeError("a run was not over after 1 s, and was killed")

    def slow(campaign, repeats):
        time.sleep(0.02)
        return Outcome("slow", 1, "", "", True, None, 0, (), 0.0)

    hung = inject("hangs", Case(hangs, 1, 6.0), campaign, 1)
    assert "was not over" in hung.observed
    assert not hung.passed
    assert not inject("slow", Case(slow, 1, 0.001), campaign, 1).passed
    assert inject("slow", Case(slow, 1, 6.0), campaign, 1).passed


# Parts of cases ---------------------------------------------------------------------------------


def test_a_run_whose_hosts_are_killed_has_rounds_for_all_of_it(tmp_path):
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(yaml.safe_dump(fault_campaign.SCENARIO))
    own, plans = _with_time_for(Campaign(scenario, tmp_path, random.Random(0)), 24)
    assert plans == {
        "undefended": (10, ["serve", "attack"]),
        "noise": (10, ["serve", "attack"]),
    }
    assert yaml.safe_load(own.scenario.read_text())["training"]["rounds"] >= 3 * 10


def test_a_full_file_system(tmp_path):
    if not mounts_are_permitted():
        pytest.skip("file systems may not be mounted here")
    place, kept = tmp_path / "place", tmp_path / "kept"
    place.mkdir()
    kept.mkdir()
    (kept / "old").write_bytes(b"o" * 5000)
    code = "import sys; open(sys.argv[1] + '/results/new', 'wb').write(b'n' * 20_000)"
    room = occupied_bytes(kept) + 4096
    command = [*NAMESPACE, "sh", "-c", SCRIPT, "sh", str(room), str(place), str(kept)]
    done = subprocess.run(
        [*command, sys.executable, "-c", code, str(place)], capture_output=True, text=True
    )
    assert done.returncode not in (0, NO_MOUNT)
    assert "No space left on device" in done.stderr
    assert (kept / "old").read_bytes() == b"o" * 5000  # put there and taken out again
    assert (kept / "new").stat().st_size <= 4096
    assert list(place.iterdir()) == []
