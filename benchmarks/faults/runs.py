"""One run of the testbed in a process of its own, watched from outside: kills, exits, leftovers."""

import ctypes
import os
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

ROOT = Path(__file__).resolve().parents[2]
LONGEST_S = 600.0
GONE_WITHIN_S = 30.0
LOOK_EVERY_S = 0.1
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1  # from linux/prctl.h and linux/capability.h
RESULTS = (
    *("results.json", "rounds.parquet", "devices.parquet", "requests.parquet", "attacks.parquet"),
    "reconstructions/samples.npz",
)


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes
    ----------
    last_words : the last line on its standard error.
    processes_left, folders_left : what was still there when it had had time to go.
    """

    exit_code: int
    errors: str
    wall_s: float
    processes_left: int
    folders_left: int

    @property
    def last_words(self) -> str:
        """The last line on standard error, which is what a person reads."""
        lines = self.errors.strip().splitlines()
        return lines[-1] if lines else ""


@dataclass
class Watched:
    """A run that has been started, with a temporary folder of its own."""

    process: subprocess.Popen[str]
    temporary: Path
    errors_file: Path
    began: float = field(default_factory=time.monotonic)
    _seen: set[psutil.Process] = field(default_factory=set)

    def running(self) -> bool:
        """Say whether it runs; remember its processes, to look for them afterwards."""
        if self.process.poll() is not None:
            return False
        try:
            self._seen |= set(psutil.Process(self.process.pid).children(recursive=True))
        except psutil.Error:
            return False
        return True

    def children(self, named: str) -> list[psutil.Process]:
        """Return its living processes with this in their name."""
        self.running()
        found = []
        for process in self._seen:
            try:
                if named in " ".join([process.name(), *process.cmdline()[:1]]):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def wait_until(self, reached: Callable[[], bool]) -> bool:
        """Wait until something is reached; return False where the run ended before."""
        while not reached():
            if not self.running():
                return False
            if time.monotonic() - self.began > LONGEST_S:
                raise TimeoutError(f"a run did not get that far within {LONGEST_S:g} s")
            time.sleep(LOOK_EVERY_S)
        return True

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the run itself, not to its children."""
        self.running()
        self.process.send_signal(number)

    def end(self) -> Ended:
        """Wait for its end, give what it started time to go, and count what is left."""
        while self.running():
            if time.monotonic() - self.began > LONGEST_S:
                raise TimeoutError(f"a run did not end within {LONGEST_S:g} s")
            time.sleep(LOOK_EVERY_S)
        wall_s = time.monotonic() - self.began
        _, alive = psutil.wait_procs(self._seen, timeout=GONE_WITHIN_S)
        deadline = time.monotonic() + GONE_WITHIN_S
        while self._folders() and time.monotonic() < deadline:
            time.sleep(0.2)
        ended = Ended(
            self.process.returncode,
            self.errors_file.read_text(encoding="utf-8"),
            wall_s,
            len(alive),
            self._folders(),
        )
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.errors_file.unlink()
        return ended

    def _folders(self) -> int:
        return sum(1 for path in self.temporary.iterdir() if path.name.startswith("sf-"))


def start(
    scenario: Path,
    out: Path,
    extra: Sequence[str] = (),
    *,
    module: str = "testbed.run",
    largest_file_bytes: int | None = None,
    obeys_permissions: bool = False,
) -> Watched:
    """Start a run.

    Parameters
    ----------
    largest_file_bytes : a disk that is full for anything larger.
    obeys_permissions : also where this process is root, who otherwise writes anywhere (Linux).
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
    process = subprocess.Popen(  # noqa: S603 - our own command line
        [sys.executable, "-m", module, str(scenario), "--out", str(out), *extra],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=handle,
        text=True,
        start_new_session=True,
        preexec_fn=limit,
    )
    os.close(handle)
    return Watched(process, temporary, Path(errors))


def run(scenario: Path, out: Path, extra: Sequence[str] = ()) -> Ended:
    """Start a run and wait for its end."""
    return start(scenario, out, extra).end()


def results_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of everything that a run measured, without what the host took for it."""
    return {name: (folder / name).read_bytes() for name in RESULTS if (folder / name).is_file()}


def half_written(folder: Path) -> list[str]:
    """Return the files in a results folder that were not finished."""
    return sorted(path.name for path in folder.rglob("*") if ".tmp" in path.name)
