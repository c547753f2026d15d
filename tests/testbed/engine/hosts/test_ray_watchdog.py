"""The watchdog cleans up and reports after a killed process; joined points may finish."""

import subprocess
import sys

import pytest

from testbed.core.project import PROJECT_ROOT
from testbed.engine.hosts.on_ray import watchdog as ray_watchdog

pytestmark = pytest.mark.processes
HOLDS_OPEN = """
import sys, time
log = open(sys.argv[1], "w")
print("open", flush=True)
time.sleep(float(sys.argv[2]))
open(sys.argv[3], "w").write("written")
"""


def start(log, seconds, result):
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", HOLDS_OPEN, log.name, str(seconds), result],
        cwd=log.parent,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"open\n"
    return process


def test_joined_points_write_their_results_and_all_others_are_killed(tmp_path):
    session = tmp_path / "session"
    session.mkdir()
    written, never = tmp_path / "point", tmp_path / "worker"
    point = start(session / "python-core-driver-01_7.log", 1, written)
    worker = start(session / "python-core-worker-02_8.log", 600, never)
    watchdog = subprocess.Popen(
        [sys.executable, "-P", ray_watchdog.__file__, str(session)], stdin=subprocess.PIPE
    )
    watchdog.stdin.close()  # as it does when the process that started Ray is gone
    assert watchdog.wait(60) == 0
    assert (point.wait(1), worker.wait(1)) == (0, -9)
    assert written.read_text() == "written"
    assert not never.exists()
    assert not session.exists()


USES_RAY = """
import sys
import psutil
from testbed.engine.hosts.on_ray.watchdog import Watchdog

vital = psutil.Process(int(sys.argv[1]))
watchdog = Watchdog()
watchdog.watch([vital])
if sys.argv[2] == "dies":
    vital.kill()
if sys.argv[3] == "speaks":
    watchdog.dismiss()
    sys.exit("spoke")
"""


@pytest.mark.parametrize(
    ("ray", "run", "said"),
    [
        ("dies", "is ended", ["failed: Ray's process", "continue with --resume"]),
        ("dies", "speaks", ["spoke"]),
        ("lives", "is ended", []),
    ],
)
def test_reports_the_end_of_a_run_that_ended_with_its_ray(ray, run, said):
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as vital:
        ended = subprocess.run(
            [sys.executable, "-c", USES_RAY, str(vital.pid), ray, run],
            cwd=PROJECT_ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        vital.kill()
    assert len(ended.stderr.splitlines()) == bool(said), "one sentence at most"
    assert all(words in ended.stderr for words in said)


TOUCHES_THE_STORE = """
import logging, os
import ray
from testbed.engine.hosts.on_ray.cluster import LocalCluster

logging.basicConfig(filename=os.devnull)  # for the last words of the raylet, which Ray repeats
cluster = LocalCluster(1)
reference = ray.put(bytes(1 << 20))
for process in cluster._vital:
    process.kill()
    process.wait()
ray.put(bytes(1 << 20))
print("Ray let it live")
"""


def test_a_process_that_ray_ends_is_reported():
    """Ray ends the process without a message: the watchdog reports it."""
    ended = subprocess.run(
        [sys.executable, "-c", TOUCHES_THE_STORE], cwd=PROJECT_ROOT, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("failed: Ray's process")
    assert len(ended.stderr.splitlines()) == 1
