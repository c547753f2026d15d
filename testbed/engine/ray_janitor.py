"""Waits for the end of the process that started Ray, then removes what Ray may have left behind.

``ray_cluster`` starts it beside Ray and holds the other end of its standard input, which closes
when that process ends in whatever way: also by SIGKILL, when no ``finally`` runs any more. It knows
the folder of one Ray session and touches nothing else. Points of a sweep that have joined this Ray
may first write what they have: they notice by themselves that their starter is gone. It is run by
its path, in a session of its own, and imports nothing of the testbed: it has to start in no time
and to outlive everything.
"""

import contextlib
import shutil
import sys
import time
from pathlib import Path

import psutil

DRIVERS_END_WITHIN_S = 60.0
DRIVERS_LOG = "python-core-driver"
PATIENCE_S = 20.0  # for processes that are on their way out, with their parent gone
LOOK_EVERY_S = 0.1
ORPHANS_END_WITHIN_S = 1.0  # one that was just being started may show up late


def processes_of(folder: str) -> list[psutil.Process]:
    """Return the processes of the session: they name its folder, or hold one of its logs open.

    Ray's agents and workers rename themselves; their logs still give them away.
    """
    own = psutil.Process().pid
    others = [process for process in psutil.process_iter() if process.pid != own]
    return [process for process in others if _uses(process, folder)]


def let_drivers_end(folder: str) -> None:
    """Wait for the processes that have joined the session to run something of their own on it."""
    deadline = time.monotonic() + DRIVERS_END_WITHIN_S
    drivers = [process for process in psutil.process_iter() if _drives(process, folder)]
    while drivers and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
        drivers = [process for process in drivers if _drives(process, folder)]


def _uses(process: psutil.Process, folder: str) -> bool:
    try:
        return folder in " ".join(process.cmdline()) or bool(_open_files(process, folder))
    except (psutil.Error, OSError):
        return False  # gone, or another user's


def _drives(process: psutil.Process, folder: str) -> bool:
    try:
        return any(DRIVERS_LOG in Path(path).name for path in _open_files(process, folder))
    except (psutil.Error, OSError):
        return False


def _open_files(process: psutil.Process, folder: str) -> list[str]:
    return [file.path for file in process.open_files() if file.path.startswith(folder)]


def clean_up(folder: str) -> None:
    """Kill the session's processes and remove its folder, until neither comes back."""
    deadline = time.monotonic() + PATIENCE_S
    quiet_since = time.monotonic()
    while time.monotonic() < deadline:
        left = processes_of(folder)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if not left:  # open files are recognised for as long as they are there
            shutil.rmtree(folder, ignore_errors=True)
        if left or Path(folder).exists():
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > ORPHANS_END_WITHIN_S:
            return
        time.sleep(LOOK_EVERY_S)


if __name__ == "__main__":
    sys.stdin.read()
    if Path(sys.argv[1]).exists():
        let_drivers_end(sys.argv[1])
        clean_up(sys.argv[1])
