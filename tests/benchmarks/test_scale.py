"""The benchmark of large fleets: its tables, bad input, and the measurement of processes."""

import sys

import pytest
import scale
from scale import ASKED, BLOCK, IDLE_BLOCK, Asked, idle_table, main, row_of, table, within
from scaling import processes
from scaling.idle import slopes
from scaling.processes import Taken, measured

from testbed.core.errors import UserError

LIMITED = Asked("testbed.run", (), 60.0, 2.0)


def row(wall_s=59.6, peak_bytes=1_990_000_000, checks=(True, True), asked=LIMITED):
    return row_of("big", 12_345, asked, Taken(wall_s, 101.2, peak_bytes, 5), checks)


def test_the_table_says_whether_limits_were_kept_and_checks_passed():
    head = "| `big` | `testbed.run` | 12,345 |"
    kept, slow, large, unsound, free = table(
        [
            row(),
            row(wall_s=60.5),
            row(peak_bytes=2_010_000_000),
            row(checks=(True, False)),
            row(wall_s=1e6, checks=(), asked=Asked()),
        ]
    ).splitlines()[2:]
    memory = "1.99 GB (5 processes)"
    assert kept == f"{head} 60 | 101 | {memory} | 1 min, 2 GB: kept | 2 of 2 passed |"
    assert "| 1 min, 2 GB: **BROKEN** |" in slow
    assert "2.01 GB (5 processes) | 1 min, 2 GB: **BROKEN** |" in large
    assert unsound.endswith("kept | **1 of 2 passed** |")
    assert free.endswith("| anything | it has none |")
    assert [within(each) for each in (row(), row(wall_s=60.5), row(asked=Asked()))] == [
        True,
        False,
        True,
    ]


def test_the_scenarios_with_limits_are_there():
    assert all(path.is_file() for path in ASKED)


def test_idle_bytes_are_a_slope_and_are_added_up():
    smaller = {"driver": 1000, "host 0": 500, "object store": 4000}
    larger = {"driver": 1000 + 90 * 10, "host 0": 520, "object store": 4000}
    found = slopes(smaller, larger, 10)
    assert found == {"driver": 90.0, "host 0": 2.0, "object store": 0.0}
    lines = idle_table({"alone": {"driver": 91.5}, "on Ray": found}).splitlines()
    assert lines[0] == "|  | driver | host 0 | object store | together |"
    assert lines[2:] == ["| alone | 91.5 |  |  | 91.5 |", "| on Ray | 90.0 | 2.0 | 0.0 | 92.0 |"]


@pytest.fixture
def runs(monkeypatch):
    """Replace the measurement; return the list of commands."""
    made = []

    def measure(command, log, limit_s):
        made.append(command[2:])
        return Taken(1.0, 2.0, 10**9, 1)

    monkeypatch.setattr(scale, "measured", measure)
    monkeypatch.setattr(scale, "_self_checks", lambda folder: [True])
    monkeypatch.setattr(scale.signal, "signal", lambda *_: None)
    return made


def test_a_scenario_becomes_a_command_a_row_and_a_table(tmp_path, runs):
    document = tmp_path / "page.md"
    document.write_text(f"{BLOCK.begin}\nold\n{BLOCK.end}\n{IDLE_BLOCK.begin}\n{IDLE_BLOCK.end}\n")
    options = ["--set", "fleet.size=777", "--out", str(tmp_path), "--document", str(document)]
    assert main(options) == 0
    (run, *run_options), (million, *_), (load, *load_options) = runs
    assert (run, million, load) == ("testbed.run", "testbed.run", "testbed.load")
    assert run_options[1:] == [
        *("--set", "fleet.size=777", "--out", str(tmp_path / "10k_devices"), "--force")
    ]
    assert load_options[1:] == ["--requests-per-s", "5000", "--set", "fleet.size=777"]
    text = document.read_text()
    assert "| `10k_devices` | `testbed.run` | 777 | 1 | 2 | 1.00 GB (1 process) |" in text
    assert "| `1m_devices` | `testbed.run` | 777 |" in text
    assert "| `1m_devices` | `testbed.load` | 777 |" in text
    assert (tmp_path / "scale.csv").read_text().count("\n") == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "10", "10"], "--sizes 10 10: give a fleet and a larger one"),
        (["--hosts", "0"], "--hosts 0"),
        (["nowhere.yaml"], r"nowhere.yaml: cannot read the scenario"),
        (["--set", "fleet.sise=3"], "fleet.sise: unknown key"),
        (["--document", "{page}"], "scale.py: begin"),
        (["--idle", "--document", "{page}"], "scale.py --idle: begin"),
    ],
)
def test_bad_input_is_reported_before_anything_runs(tmp_path, runs, capsys, arguments, message):
    page = tmp_path / "page.md"
    page.write_text("no marks")
    given = [str(page) if text == "{page}" else text for text in arguments]
    assert main([*given, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert runs == []


CHILD = "x = bytearray(60_000_000); import time; t = time.time() + 1.2\nwhile time.time() < t: pass"


def test_children_count_and_a_failure_is_its_last_line(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "LOOK_EVERY_S", 0.1)
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"
    taken = measured([sys.executable, "-c", parent], tmp_path / "log", 60.0)
    assert 60_000_000 < taken.peak_bytes < 200_000_000
    assert taken.peak_processes == 2
    assert 0.2 < taken.cpu_s < taken.wall_s + 1.0
    with pytest.raises(UserError, match=r"ValueError: why; see .*log"):
        measured([sys.executable, "-c", "raise ValueError('why')"], tmp_path / "log", 60.0)
    with pytest.raises(UserError, match=r"not over after 0\.5 s"):
        measured([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", 0.5)
