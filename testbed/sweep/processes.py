"""Several points at once: each is a run of its own in a process of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.core.loading import dump_scenario
from testbed.core.scenario import Scenario
from testbed.engine.backend import default_hosts
from testbed.engine.folder import RESOLVED
from testbed.sweep.folder import SweepFolder
from testbed.sweep.grid import Point

POLL_S = 0.1
STOP_TIMEOUT_S = 120.0
PROJECT_ROOT = Path(__file__).resolve().parents[2]


@dataclass
class _Running:
    title: str
    point: Point
    process: "subprocess.Popen[bytes]"
    messages: Path


def run_in_processes(
    sweep: SweepFolder,
    waiting: Sequence[tuple[str, Point]],
    jobs: int,
    say: Callable[[str], None],
    on_point: Callable[[], None],
) -> None:
    """Run points, ``jobs`` at a time; a failing point is noted in ``sweep.errors``.

    Raises
    ------
    KeyboardInterrupt : every running point was told to stop and has written what it had.
    """
    left = list(waiting)
    running: list[_Running] = []
    with tempfile.TemporaryDirectory(prefix="sweep-") as temporary:
        try:
            while left or running:
                while left and len(running) < jobs:
                    title, point = left.pop(0)
                    say(f"{title}: started")
                    running.append(_start(sweep, title, point, jobs, Path(temporary)))
                time.sleep(POLL_S)
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    _note(sweep, one, say)
                    on_point()
        except BaseException:
            _stop(running)
            raise


def _start(sweep: SweepFolder, title: str, point: Point, jobs: int, temporary: Path) -> _Running:
    folder = sweep.of(point)
    scenario, messages = temporary / f"{point.name}.yaml", temporary / f"{point.name}.txt"
    scenario.write_text(dump_scenario(_with_fewer_hosts(point.scenario, jobs)), encoding="utf-8")
    command = [sys.executable, "-m", "testbed.sweep.worker", str(scenario), "--out", str(folder)]
    if (folder / RESOLVED).exists():
        command.append("--resume")
    paths = [str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]
    with messages.open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603 - this interpreter and our own module
            command,
            stdin=subprocess.PIPE,  # closes when this process ends, which stops the worker
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)},
            start_new_session=True,  # the terminal's Ctrl-C would otherwise come twice
        )
    return _Running(title, point, process, messages)


def _with_fewer_hosts(scenario: Scenario, jobs: int) -> Scenario:
    """Share this machine's cores among the jobs, unless the scenario says how many hosts to use."""
    engine = scenario.engine
    if engine.backend != "ray" or engine.hosts is not None:
        return scenario
    hosts = max(1, default_hosts() // jobs)
    return scenario.model_copy(update={"engine": engine.model_copy(update={"hosts": hosts})})


def _note(sweep: SweepFolder, one: _Running, say: Callable[[str], None]) -> None:
    if one.process.returncode == 0:
        sweep.errors.pop(one.point.name, None)
        say(f"{one.title}: complete")
        return
    lines = one.messages.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = lines[-1] if lines else f"its process ended with code {one.process.returncode}"
    reason = reason.removeprefix("error: ").removeprefix("failed: ")
    sweep.errors[one.point.name] = reason
    say(f"{one.title}: failed: {reason}")


def _stop(running: Sequence[_Running]) -> None:
    """Let every worker write its partial results; end those that do not within a bound."""
    for one in running:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGINT)
    due = time.monotonic() + STOP_TIMEOUT_S
    for one in running:
        try:
            one.process.wait(max(0.0, due - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.process.kill()
