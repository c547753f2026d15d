"""Supervises one run of the testbed in a separate process: kills, exit codes, leftovers."""

import contextlib
import ctypes
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from testbed.engine.hosts.on_ray.watchdog import alive

ROOT = Path(__file__).resolve().parents[2]
LONGEST_S = 600.0
GONE_WITHIN_S = 30.0
LOOK_EVERY_S = 0.02
KNOW_EVERY_S = 0.2  # looking through all processes takes tens of milliseconds
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1  # from linux/prctl.h and linux/capability.h
RAY_SESSIONS = Path("/tmp/ray")  # noqa: S108 - where Ray puts sessions unless told otherwise
NOT_HANDED_ON = {"TORCHINDUCTOR_CACHE_DIR"}  # runs must leave nothing behind, however started
RESULTS = (
    *("results.json", "rounds.parquet", "devices.parquet", "requests.parquet", "attacks.parquet"),
    "reconstructions/samples.npz",
)


class OutOfTimeError(Exception):
    """A run did not end within its limit and was killed."""


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes
    ----------
    processes_left : number of its processes still alive after a grace period.
    left : names of files then left in its temporary folder, and of its Ray session folders.
    """

    exit_code: int
    errors: str
    wall_s: float
    processes_left: int
    left: tuple[str, ...]

    @property
    def last_words(self) -> str:
        """The last line on standard error."""
        lines = self.errors.strip().splitlines()
        return lines[-1] if lines else ""

    @property
    def is_one_sentence(self) -> bool:
        """Whether the run ended with one sentence on the reason, without a traceback."""
        has_reason = self.last_words.startswith(("error: ", "failed: ", "interrupted: "))
        return has_reason and "Traceback" not in self.errors


@dataclass
class Watched:
    """A started run with its own temporary folder.

    Attributes
    ----------
    deadline : on the monotonic clock; a wait beyond it kills the run.
    """

    process: subprocess.Popen[str]
    temporary: Path
    errors_file: Path
    deadline: float
    began: float = field(default_factory=time.monotonic)
    _sessions: set[str] = field(default_factory=lambda: _names(RAY_SESSIONS))
    _seen: set[psutil.Process] = field(default_factory=set)
    _known_at: float = 0.0

    def running(self, look: bool = False) -> bool:
        """Say whether it is running; periodically record its child processes.

        Raises
        ------
        OutOfTimeError : it is running beyond its limit.
        """
        if self.process.poll() is not None:
            return False
        if time.monotonic() > self.deadline:
            self._kill()
            limit_s = self.deadline - self.began
            raise OutOfTimeError(f"a run was not over after {limit_s:.0f} s, and was killed")
        if look or time.monotonic() - self._known_at > KNOW_EVERY_S:
            with contextlib.suppress(psutil.Error):
                self._seen |= set(psutil.Process(self.process.pid).children(recursive=True))
            self._known_at = time.monotonic()
        return True

    def seconds(self) -> float:
        """Return the time since its start."""
        return time.monotonic() - self.began

    def children(self, named: str) -> list[psutil.Process]:
        """Return its live processes with this in their name, ordered by process id."""
        self.running(look=True)
        found = []
        for process in self._seen:
            with contextlib.suppress(psutil.Error):
                if named in " ".join([process.name(), *process.cmdline()[:1]]):
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def phases_done(self) -> list[str]:
        """Return the names of the phases reported as done, in order."""
        lines = self.errors_file.read_text(encoding="utf-8", errors="replace")
        return re.findall(r"^(.+): done", lines, re.MULTILINE)

    def wait_until(self, reached: Callable[[], bool]) -> bool:
        """Wait for a condition; return False if the run ended before."""
        while not reached():
            if not self.running():
                return False
            time.sleep(LOOK_EVERY_S)
        return True

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the run itself, not to its children."""
        self.running(look=True)
        self.process.send_signal(number)

    def end(self) -> Ended:
        """Wait for its end and for its child processes, and count what is left."""
        while self.running():
            time.sleep(LOOK_EVERY_S)
        wall_s = self.seconds()
        due = time.monotonic() + GONE_WITHIN_S
        while (self._alive() or self._left()) and time.monotonic() < due:
            time.sleep(0.2)
        living, left = self._alive(), self._left()
        ended = Ended(
            self.process.returncode,
            self.errors_file.read_text(encoding="utf-8", errors="replace"),
            wall_s,
            len(living),
            left,
        )
        self._remove(living)
        return ended

    def _alive(self) -> list[psutil.Process]:
        """Return its live processes: recorded children, and all with its temporary folder."""
        mine = {process for process in psutil.process_iter() if self._is_mine(process)}
        return [process for process in self._seen | mine if alive(process)]

    def _is_mine(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("TMPDIR") == str(self.temporary)
        except (psutil.Error, OSError):
            return False  # gone, or another user's

    def _left(self) -> tuple[str, ...]:
        pids = {self.process.pid, *(process.pid for process in self._seen)}
        sessions = {
            name
            for name in _names(RAY_SESSIONS) - self._sessions
            if any(name.endswith(f"_{pid}") for pid in pids)  # others may be using Ray as well
        }
        return tuple(sorted(_names(self.temporary) | sessions))

    def _kill(self) -> None:
        with contextlib.suppress(psutil.Error):
            self._seen |= set(psutil.Process(self.process.pid).children(recursive=True))
        self.process.kill()
        self.process.wait()
        self._remove(self._alive())

    def _remove(self, processes: Sequence[psutil.Process]) -> None:
        """Kill the given processes and remove all temporary files."""
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.errors_file.unlink(missing_ok=True)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def start(
    scenario: Path,
    out: Path,
    extra: Sequence[str] = (),
    *,
    limit_s: float = LONGEST_S,
    module: str = "testbed.run",
    within: Sequence[str] = (),
    largest_file_bytes: int | None = None,
    obeys_permissions: bool = False,
) -> Watched:
    """Start a run.

    Parameters
    ----------
    limit_s : time limit.
    within : a command that runs the command line appended to it.
    largest_file_bytes : limit on the size of files, as on a full disk.
    obeys_permissions : respect file permissions even as root (Linux).
    """

    def limit() -> None:
        if largest_file_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the system call fails instead
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes, largest_file_bytes))
        if obeys_permissions and os.getuid() == 0:
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)

    temporary = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))  # short, for Ray's sockets
    handle, errors = tempfile.mkstemp(prefix="faults-")
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    kept = {name: value for name, value in os.environ.items() if name not in NOT_HANDED_ON}
    process = subprocess.Popen(  # noqa: S603 - our own command line
        [*within, sys.executable, "-m", module, str(scenario), "--out", str(out), *extra],
        cwd=ROOT,
        env=kept | {"TMPDIR": str(temporary), "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=handle,
        text=True,
        start_new_session=True,
        preexec_fn=limit,
    )
    os.close(handle)
    return Watched(process, temporary, Path(errors), time.monotonic() + limit_s)


def results_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all results of a run, without the measurements of the host."""
    return {name: (folder / name).read_bytes() for name in RESULTS if (folder / name).is_file()}


def everything_in(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file in a folder, by its path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def half_written(folder: Path) -> list[str]:
    """Return the files in a results folder that were not finished."""
    names = [path.name for path in folder.rglob("*")]
    return sorted(name for name in names if ".tmp" in name or name.startswith("."))
