"""Cleans up after a process that uses Ray, and reports its death if Ray killed it.

A run starts the watchdog beside Ray and holds the other end of its standard input. The pipe closes
when the run ends in any way, even by SIGKILL, when no ``finally`` block runs. Ray itself also ends
every process whose raylet is gone, on the next access to the object store, with exit code 1 and no
message. The watchdog knows Ray's vital processes and the folder of one session, and touches nothing
else. Points of a sweep that have joined this Ray first write their results: they notice by
themselves that their starter is gone. The watchdog runs as a script in a session of its own, and
imports nothing of the testbed: it must start quickly and outlive everything.
"""

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import psutil

FAREWELL = "goodbye"
GONE = (
    "Ray's process {pid} is gone, which all hosts depend on (killed, or out of memory?); "
    "continue with --resume"
)
DRIVERS_END_WITHIN_S = 60.0
DRIVERS_LOG = "python-core-driver"
PATIENCE_S = 20.0  # for processes that are ending after their parent's death
LOOK_EVERY_S = 0.1
ORPHANS_END_WITHIN_S = 1.0  # a process that was just starting may appear late


class Watchdog:
    """The watchdog of this process.

    Parameters
    ----------
    folder : folder of the Ray session that this process started; None if it joined a cluster.
    """

    def __init__(self, folder: str | None = None) -> None:
        command = [sys.executable, "-P", __file__, *([] if folder is None else [folder])]
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            command, stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        self.pid = self._process.pid

    def watch(self, vital: Iterable[psutil.Process]) -> None:
        """Register the processes without which Ray ends this one."""
        self._say(" ".join(str(process.pid) for process in vital))

    def dismiss(self) -> None:
        """Announce a regular end, and wait until the watchdog has cleaned up."""
        self._say(FAREWELL)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it is gone or was dismissed
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()


def alive(process: psutil.Process) -> bool:
    """Return whether a process runs and is no zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def wait_for_the_end(run: TextIO) -> str | None:
    """Wait until a run ends; return its last message if Ray ended it, else None."""
    vital: dict[int, psutil.Process | None] = {}
    for line in map(str.strip, run):
        if line == FAREWELL:
            return None
        for pid in map(int, line.split()):
            vital[pid] = _process(pid)
    gone = [pid for pid, process in vital.items() if process is None or not alive(process)]
    return f"failed: {GONE.format(pid=gone[0])}" if gone else None


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def processes_of(folder: str) -> list[psutil.Process]:
    """Return the processes of the session: they name its folder, or have one of its logs open.

    Ray's agents and workers rename themselves; their open logs still identify them.
    """
    own = psutil.Process().pid
    others = [process for process in psutil.process_iter() if process.pid != own]
    return [process for process in others if _uses(process, folder)]


def let_drivers_end(folder: str) -> None:
    """Wait for other drivers that have joined the session to end."""
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
    """Kill the session's processes and remove its folder, until neither reappears."""
    deadline = time.monotonic() + PATIENCE_S
    quiet_since = time.monotonic()
    while time.monotonic() < deadline:
        left = processes_of(folder)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if not left:  # keep the folder while processes are identified by open files in it
            shutil.rmtree(folder, ignore_errors=True)
        if left or Path(folder).exists():
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > ORPHANS_END_WITHIN_S:
            return
        time.sleep(LOOK_EVERY_S)


if __name__ == "__main__":
    words = wait_for_the_end(sys.stdin)
    if words is not None:
        print(words, file=sys.stderr, flush=True)
    if sys.argv[1:] and Path(sys.argv[1]).exists():
        let_drivers_end(sys.argv[1])
        clean_up(sys.argv[1])
