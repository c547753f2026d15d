"""The benchmark of start and memory: its measurement of a command, and its verdicts."""

from pathlib import Path

import start_up
from scaling.processes import Taken


def test_the_processor_time_of_a_command_is_its_own():
    _, idle_s = start_up.spent(["-c", "import time; time.sleep(0.2)"])
    wall_s, busy_s = start_up.spent(["-c", "import time\nwhile time.process_time() < 0.5: pass"])
    assert busy_s >= 0.5 > idle_s
    assert wall_s >= 0.5 * busy_s


def test_a_broken_limit_is_named():
    taken = Taken(wall_s=12.0, cpu_s=20.0, peak_bytes=2_400_000_000, peak_processes=9)
    row = start_up.run_row(Path("smoke.yaml"), 10.0, 2.5, taken)
    assert row[-1] == "10: **BROKEN** (s), 2.5: kept (GB)"
    assert start_up._broken([row])
    assert not start_up._broken([start_up.run_row(Path("x.yaml"), None, None, taken)])


def test_every_command_is_shown_as_it_is_typed():
    titles = [command.title for command in start_up.COMMANDS]
    assert titles[0] == "testbed.run --help"
    assert "testbed.run scenarios/smoke.yaml --dry-run" in titles
