"""Ends processes of hosts and attacks that stay stopped, so that they are replaced like dead ones.

A stopped process (SIGSTOP, a job control signal) neither answers nor dies. Every look asks the
system for the state of the process. A heartbeat that the process sends itself would also be missing
while native code holds Python's lock or the machine swaps; such a process is not stopped, and is
left alone. So is one that a debugger has halted.
"""

import contextlib
import logging
import time
from collections.abc import Iterable, Sequence

import psutil

ENDED_AFTER_S = 20.0
LOOK_EVERY_S = 2.0
MOST_S_PER_LOOK = 2 * LOOK_EVERY_S  # the observer itself slept, was stopped or was busy
_LOG = logging.getLogger(__name__)


class StoppedProcesses:
    """Adds up how long processes were seen stopped without a break.

    Time in which nothing was looked at hardly counts: when a whole machine wakes up, its processes
    get the time to go on.
    """

    def __init__(self) -> None:
        self._stopped_s: dict[psutil.Process, float] = {}
        self._of_pid: dict[int, psutil.Process] = {}
        self._looked = time.monotonic()

    def look(self, processes: Iterable[psutil.Process]) -> list[psutil.Process]:
        """Look at the processes, and return those that have been stopped for too long."""
        now = time.monotonic()
        passed_s = min(now - self._looked, MOST_S_PER_LOOK)
        self._looked = now
        before, self._stopped_s = self._stopped_s, {}
        for process in processes:
            if is_stopped(process):
                self._stopped_s[process] = before.get(process, -passed_s) + passed_s
        return [process for process, s in self._stopped_s.items() if s >= ENDED_AFTER_S]

    def with_pids(self, pids: Sequence[int]) -> list[psutil.Process]:
        """Return processes by their ids; one that ended is not confused with a later one."""
        for pid in pids:
            if pid not in self._of_pid:
                with contextlib.suppress(psutil.Error):
                    self._of_pid[pid] = psutil.Process(pid)
        return [self._of_pid[pid] for pid in pids if pid in self._of_pid]

    def end(self, processes: Iterable[psutil.Process]) -> list[int]:
        """Look, and kill those that have been stopped for too long; return their ids."""
        ended = []
        for process in self.look(processes):
            with contextlib.suppress(psutil.Error):
                process.kill()
                ended.append(process.pid)
                _LOG.warning(
                    "process %d has been stopped for %g s and is ended, to be replaced",
                    process.pid,
                    ENDED_AFTER_S,
                )
        return ended


def is_stopped(process: psutil.Process) -> bool:
    """Return whether a process is stopped; a dead one is not."""
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False
