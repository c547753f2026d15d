"""Runs a command and measures the time and memory of it and all its child processes."""

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from testbed.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
LOOK_EVERY_S = 1.0  # a sample takes tens of milliseconds
ENDS_WITHIN_S = 60.0


@dataclass(frozen=True)
class Taken:
    """Time and memory of a command.

    Attributes
    ----------
    cpu_s : CPU time of all its processes when last sampled: short by at most ``LOOK_EVERY_S`` each.
    peak_bytes, peak_processes : peak memory of all processes together, and their number then.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    peak_processes: int


def kind_of_memory() -> str:
    """Return the kind of memory: PSS, which counts shared pages once, or RSS (not on Linux)."""
    return "PSS" if hasattr(psutil.Process().memory_full_info(), "pss") else "RSS"


def bytes_of(process: psutil.Process) -> int:
    """Return a process's memory: PSS if the system provides it, otherwise RSS."""
    memory = process.memory_full_info()
    return int(getattr(memory, "pss", memory.rss))


def measured(command: Sequence[str], log: Path, limit_s: float) -> Taken:
    """Run a command from the project's folder, and sample all its processes until it ends.

    Parameters
    ----------
    log : receives its output.

    Raises
    ------
    UserError : the command failed, or was stopped at the limit.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - the testbed's own commands
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, stdout=output, stderr=output
        )
    cpu_s: dict[psutil.Process, float] = {}
    peak = (0, 0)
    try:
        while process.poll() is None:
            if time.perf_counter() - began > limit_s:
                raise UserError(f"{' '.join(command)}: not over after {limit_s:g} s; see {log}")
            peak = max(peak, _look(process.pid, cpu_s))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_EVERY_S)
    finally:
        _end(process)
    wall_s = time.perf_counter() - began
    if process.returncode:
        words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise UserError(f"{' '.join(command)}: {words[-1] if words else 'failed'}; see {log}")
    return Taken(wall_s, sum(cpu_s.values()), *peak)


def _look(root: int, cpu_s: dict[psutil.Process, float]) -> tuple[int, int]:
    """Record the CPU time of a process and its children; return their memory and number."""
    sizes = []
    with contextlib.suppress(psutil.Error):
        first = psutil.Process(root)
        for process in [first, *first.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):  # it has just ended
                times = process.cpu_times()
                cpu_s[process] = times.user + times.system
                sizes.append(bytes_of(process))
    return sum(sizes), len(sizes)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop a running command with all its child processes."""
    if process.poll() is not None:
        return
    first = psutil.Process(process.pid)
    started = [first, *first.children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(started, timeout=ENDS_WITHIN_S)
    for each in alive:
        with contextlib.suppress(psutil.Error):
            each.kill()
    process.wait()
