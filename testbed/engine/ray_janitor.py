"""Waits for the end of the process that started Ray, then removes what Ray may have left behind.

``ray_cluster`` starts it beside Ray and holds the other end of its standard input, which closes
when that process ends in whatever way: also by SIGKILL, when no ``finally`` runs any more. It knows
the folder of one Ray session and touches nothing else. It is run by its path, in a session of its
own, and imports nothing of the testbed: it has to start in no time and to outlive everything.
"""

import contextlib
import shutil
import sys
import time
from pathlib import Path

import psutil

PATIENCE_S = 20.0  # for processes that are on their way out, with their parent gone
LOOK_EVERY_S = 0.1
ORPHANS_END_WITHIN_S = 2.0  # workers look for their parent once in a second, and have no folder


def processes_of(folder: str) -> list[psutil.Process]:
    """Return the processes whose command line names the folder: Ray's own all do."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if process.pid != psutil.Process().pid and folder in " ".join(
            process.info["cmdline"] or []
        ):
            found.append(process)
    return found


def clean_up(folder: str) -> None:
    """Kill the session's processes and remove its folder, until neither comes back."""
    deadline = time.monotonic() + PATIENCE_S
    quiet_since = time.monotonic()
    while time.monotonic() < deadline:
        left = processes_of(folder)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)
        if left or Path(folder).exists():
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > ORPHANS_END_WITHIN_S:
            return
        time.sleep(LOOK_EVERY_S)


if __name__ == "__main__":
    sys.stdin.read()
    if Path(sys.argv[1]).exists():
        clean_up(sys.argv[1])
