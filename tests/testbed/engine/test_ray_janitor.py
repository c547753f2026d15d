"""What is cleaned up behind a process that was killed, and who may end by himself before."""

import subprocess
import sys

from testbed.engine.ray_cluster import JANITOR

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


def test_points_that_joined_write_what_they_have_and_everybody_else_is_killed(tmp_path):
    session = tmp_path / "session"
    session.mkdir()
    written, never = tmp_path / "point", tmp_path / "worker"
    point = start(session / "python-core-driver-01_7.log", 1, written)
    worker = start(session / "python-core-worker-02_8.log", 600, never)
    janitor = subprocess.Popen(
        [sys.executable, "-P", str(JANITOR), str(session)], stdin=subprocess.PIPE
    )
    janitor.stdin.close()  # as it does when the process that started Ray is gone
    assert janitor.wait(60) == 0
    assert (point.wait(1), worker.wait(1)) == (0, -9)
    assert written.read_text() == "written"
    assert not never.exists()
    assert not session.exists()
