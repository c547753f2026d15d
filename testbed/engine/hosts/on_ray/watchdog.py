"""Waits for the end of a process that uses Ray: says what it could not, removes what Ray left.

A run starts it beside Ray and holds the other end of its standard input, which closes when the run
ends in whatever way: also by SIGKILL, when no ``finally`` runs any more, or by Ray itself, which
ends every process whose raylet is gone as soon as that touches the object store, with exit code 1
and without a word. The watchdog knows the processes that Ray needs and the folder of one session,
and touches nothing else. Points of a sweep that have joined this Ray may first write what they
have: they notice by themselves that their starter is gone. It is run by its path, in a session of
its own, and imports nothing of the testbed: it has to start in no time and to outlive everything.
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
PATIENCE_S = 20.0  # for processes that are on their way out, with their parent gone
LOOK_EVERY_S = 0.1
ORPHANS_END_WITHIN_S = 1.0  # one that was just being started may show up late


class Watchdog:
    """The watchdog of this process, which starts it.

    Parameters
    ----------
    folder : of a Ray session that is this process's own; None where Ray goes on without it.
    """

    def __init__(self, folder: str | None = None) -> None:
        command = [sys.executable, "-P", __file__, *([] if folder is None else [folder])]
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            command, stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        self.pid = self._process.pid

    def watch(self, vital: Iterable[psutil.Process]) -> None:
        """Name the processes without which Ray ends this one."""
        self._say(" ".join(str(process.pid) for process in vital))

    def dismiss(self) -> None:
        """Tell it that this process can speak for itself; wait until it has cleaned up."""
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
        with contextlib.suppress(OSError, ValueError):  # it is gone, or was dismissed before
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()


def alive(process: psutil.Process) -> bool:
    """Say whether a process is there, and not merely unburied."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def wait_for_the_end(run: TextIO) -> str | None:
    """Wait until a run ends; return what it could not say any more, if Ray ended it."""
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
    words = wait_for_the_end(sys.stdin)
    if words is not None:
        print(words, file=sys.stderr, flush=True)
    if sys.argv[1:] and Path(sys.argv[1]).exists():
        let_drivers_end(sys.argv[1])
        clean_up(sys.argv[1])
