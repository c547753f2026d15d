"""Runs the points of a sweep: one after another in this process, or several at once in others."""

import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from testbed.compare.build import write_comparison
from testbed.compare.comparison import compare
from testbed.core.errors import HostError, UserError
from testbed.core.progress import Display
from testbed.engine.execution import RunInterrupted, execute
from testbed.engine.hosts.on_ray.address import check_address, found_address
from testbed.engine.setting.positions import check_positions
from testbed.engine.setting.run_context import check_components, read_fleet
from testbed.results.writing import RESOLVED
from testbed.sweep.folder import (
    COMPARISON,
    COMPLETE,
    SweepFolder,
    check_sweep_folder,
    open_sweep_folder,
)
from testbed.sweep.grid import Point
from testbed.sweep.index import write_index
from testbed.sweep.processes import run_in_processes
from testbed.sweep.shared_ray import SharedRay, on_ray

Say = Callable[[str], None]
MakeDisplay = Callable[[], AbstractContextManager[Display | None]]


def run_points(
    points: Sequence[Point],
    folder: Path,
    say: Say,
    make_display: MakeDisplay,
    *,
    stop_requested: Callable[[], bool] = lambda: False,
    jobs: int = 1,
    force: bool = False,
    resume: bool = False,
    ray_address: str | None = None,
) -> SweepFolder:
    """Run every incomplete point; a failing point does not stop the others.

    The index is rewritten after every point. The number of jobs does not affect results.

    Parameters
    ----------
    say : receives one line per point.
    make_display : creates the display of a point's phases, if points run one after another.
    jobs : points that run at once, each in a process of its own, on one Ray.
    ray_address : Ray cluster that the points join; None starts Ray on this machine.

    Raises
    ------
    UserError : a point is wrong in a way that is detected before the run, or the folder cannot be
        used; nothing was overwritten.
    KeyboardInterrupt : the running points have written their partial results.
    """
    if jobs < 1:
        raise UserError(f"--jobs {jobs}: give a number of at least 1")
    if ray_address is not None:
        ray_address = found_address(ray_address)  # resolved once for all points
        check_address(ray_address)
    for point in points:
        _check(point)
        if ray_address is not None and not on_ray(point):
            raise UserError(
                f"sweep point {point.name}: --ray-address has no effect with engine.backend=inline"
            )
    check_sweep_folder(folder, points, force, resume)
    sweep = SweepFolder(folder, points)
    due = [point for point in points if force or sweep.status(point) != COMPLETE]
    shared = SharedRay(due, jobs, ray_address) if jobs > 1 and due else None
    sweep = open_sweep_folder(folder, points, force)
    waiting = []
    for number, point in enumerate(points, 1):
        if sweep.status(point) == COMPLETE:
            say(f"point {number} of {len(points)}, {point.name}: complete already")
        else:
            waiting.append((f"point {number} of {len(points)}, {point.name}", point))
    try:
        if shared is not None:
            run_in_processes(sweep, waiting, jobs, shared, say, on_point=lambda: write_index(sweep))
        else:
            _run_in_turn(sweep, waiting, say, make_display, stop_requested, ray_address)
    finally:
        write_index(sweep)
    _compare(sweep)
    write_index(sweep)
    return sweep


def _check(point: Point) -> None:
    """Check a point before any data is read.

    Raises
    ------
    UserError : the point is wrong; names it.
    """
    try:
        fleet, _ = read_fleet(point.scenario)
        check_components(point.scenario, len(fleet))
        check_positions(point.scenario, fleet)
    except UserError as error:
        raise UserError(f"sweep point {point.name}: {error}") from None


def _run_in_turn(
    sweep: SweepFolder,
    waiting: Sequence[tuple[str, Point]],
    say: Say,
    make_display: MakeDisplay,
    stop_requested: Callable[[], bool],
    ray_address: str | None,
) -> None:
    for title, point in waiting:
        folder = sweep.of(point)
        say(title)
        try:
            with make_display() as display:
                execute(
                    point.scenario,
                    folder,
                    display,
                    stop_requested,
                    resume=(folder / RESOLVED).exists(),
                    ray_address=ray_address,
                )
            sweep.errors.pop(point.name, None)
        except RunInterrupted:
            raise
        except (UserError, HostError, OSError) as error:
            sweep.errors[point.name] = str(error)
            say(f"{title}: failed: {error}")
        write_index(sweep)


def _compare(sweep: SweepFolder) -> None:
    """Write ``comparison/`` when all points are complete, or note why there is none.

    Points with different data, fleets or adversaries are not comparable: their differences would
    look like differences between defences (``testbed.compare``).
    """
    folders = [sweep.of(point) for point in sweep.points]
    if len(folders) < 2 or any(sweep.status(point) != COMPLETE for point in sweep.points):
        return
    names = [point.name for point in sweep.points]
    command = shlex.join(["python", "-m", "testbed.compare", *names])
    try:
        compared = compare(folders)
    except UserError as error:
        sweep.note = f"The points were not compared with one another: {error}."
        return
    write_comparison(compared, sweep.path / COMPARISON, command)
    sweep.note = "accuracy, attacks and costs of all points side by side."
