"""Runs several points at once, each in a process of its own, all on one Ray."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.core.errors import HostError
from testbed.core.process import project_python_path
from testbed.results.writing import RESOLVED
from testbed.scenario.loading import dump_scenario
from testbed.sweep.folder import JOBS, SweepFolder
from testbed.sweep.grid import Point
from testbed.sweep.shared_ray import SharedRay, on_ray

POLL_S = 0.1
STOP_TIMEOUT_S = 120.0
LAST_WORDS_WITHIN_S = 3.0


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
    shared: SharedRay,
    say: Callable[[str], None],
    on_point: Callable[[], None],
) -> None:
    """Run points, ``jobs`` at a time; a failing point is recorded in ``sweep.errors``.

    If the shared Ray dies, the points on it fail, and the remaining points get another.

    Parameters
    ----------
    shared : closed at the end in any case.

    Raises
    ------
    UserError : Ray cannot start here.
    KeyboardInterrupt : every running point was stopped and has written its partial results.
    """
    left = list(waiting)
    running: list[_Running] = []
    with _passing_files(sweep) as files, contextlib.closing(shared):
        try:
            while left or running:
                while left and len(running) < jobs:
                    title, point = left.pop(0)
                    say(f"{title}: started")
                    running.append(_start(sweep, title, point, shared, files))
                time.sleep(POLL_S)
                for one, reason in _ended(running, shared):
                    running.remove(one)
                    _note(sweep, one, reason, say)
                    on_point()
        except BaseException:
            _stop(running)
            raise


@contextlib.contextmanager
def _passing_files(sweep: SweepFolder) -> Iterator[Path]:
    """Make a folder for the processes' input files.

    If no ``finally`` block runs, the next start of the sweep removes it.
    """
    folder = sweep.path / JOBS
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(
    sweep: SweepFolder, title: str, point: Point, shared: SharedRay, files: Path
) -> _Running:
    folder = sweep.of(point)
    scenario, messages = files / f"{point.name}.yaml", files / f"{point.name}.txt"
    scenario.write_text(dump_scenario(shared.scenario(point)), encoding="utf-8")
    command = [sys.executable, "-m", "testbed.sweep.worker", str(scenario), "--out", str(folder)]
    if (folder / RESOLVED).exists():
        command.append("--resume")
    command += shared.options(point)
    with messages.open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603 - this interpreter and our own module
            command,
            stdin=subprocess.PIPE,  # closes when this process ends, which stops the worker
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=os.environ | {"PYTHONPATH": project_python_path()},
            start_new_session=True,  # the terminal's Ctrl-C would otherwise come twice
        )
    return _Running(title, point, process, messages)


def _ended(running: Sequence[_Running], shared: SharedRay) -> list[tuple[_Running, str | None]]:
    """Return the points whose process has ended, with the reason if the process cannot know it."""
    try:
        shared.check()
    except HostError as error:
        lost = [one for one in running if on_ray(one.point)]
        _stop(lost)
        shared.close()
        return [(one, str(error)) for one in lost]
    return [(one, None) for one in running if one.process.poll() is not None]


def _note(
    sweep: SweepFolder, one: _Running, reason: str | None, say: Callable[[str], None]
) -> None:
    if one.process.returncode == 0:
        sweep.errors.pop(one.point.name, None)
        say(f"{one.title}: complete")
        return
    reason = reason or _last_words(one)
    sweep.errors[one.point.name] = reason
    say(f"{one.title}: failed: {reason}")


def _last_words(one: _Running) -> str:
    """Return why a point failed; if Ray ended it, its watchdog reports that shortly after."""
    due = time.monotonic() + LAST_WORDS_WITHIN_S
    while True:
        lines = one.messages.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        message = lines[-1] if lines else f"its process ended with code {one.process.returncode}"
        reason = message.removeprefix("error: ").removeprefix("failed: ")
        if reason != message or time.monotonic() > due:
            return reason
        time.sleep(POLL_S)


def _stop(running: Sequence[_Running]) -> None:
    """Let every worker write its partial results; kill those that exceed the time limit."""
    for one in running:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGINT)
    due = time.monotonic() + STOP_TIMEOUT_S
    for one in running:
        try:
            one.process.wait(max(0.0, due - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()
