"""The command line of several scenarios or a sweep: progress, interrupts and the closing table."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from testbed.cli.display import RichDisplay
from testbed.cli.dry_run import print_dry_run
from testbed.cli.tables import table
from testbed.core.process import Interrupts
from testbed.results import formats as numbers
from testbed.sweep.folder import COMPLETE, SweepFolder
from testbed.sweep.grid import Point, expand_files
from testbed.sweep.index import CSV, PAGE, rows_of
from testbed.sweep.runner import run_points

MAX_SHOWN = 30
FAILED, INTERRUPTED = 1, 130  # exit codes, as of one run


def run_many(chosen: argparse.Namespace, overrides: Sequence[str], interrupts: Interrupts) -> int:
    """Run all points of the chosen scenario files; return the exit code.

    Raises
    ------
    UserError : anything that is wrong before the first point runs.
    """
    points = expand_files(chosen.scenarios, overrides)
    folder = chosen.out or default_sweep_folder(points, len(chosen.scenarios))
    if chosen.dry_run:
        _print_points(points, folder)
        print_dry_run(points[0].scenario)
        return 0
    try:
        sweep = run_points(
            points,
            folder,
            lambda line: print(line, file=sys.stderr, flush=True),
            RichDisplay,
            stop_requested=lambda: interrupts.requested,
            jobs=chosen.jobs,
            force=chosen.force,
            resume=chosen.resume,
            ray_address=chosen.ray_address,
        )
    except KeyboardInterrupt:
        print(
            f"interrupted: what there is stands in {folder / PAGE}; the same command with "
            "--resume instead of --force goes on",
            file=sys.stderr,
        )
        return INTERRUPTED
    Console().print(_closing_table(sweep))
    failed = [point.name for point in points if sweep.status(point) != COMPLETE]
    for name in failed:
        print(f"failed: {name}: {sweep.errors.get(name, 'not complete')}", file=sys.stderr)
    print(f"index: {folder / PAGE} and {folder / CSV}")
    return FAILED if failed else 0


def default_sweep_folder(points: Sequence[Point], files: int) -> Path:
    """Return the default folder of a sweep or batch."""
    first = points[0].scenario.name
    return Path("results") / (first if files == 1 else f"{first}+{files - 1}")


def _print_points(points: Sequence[Point], folder: Path) -> None:
    print(f"{len(points)} points into {folder}:")
    for point in points[:MAX_SHOWN]:
        print(f"  {point.name}")
    if len(points) > MAX_SHOWN:
        print(f"  and {len(points) - MAX_SHOWN} more")
    print("the first of them:")


def _closing_table(sweep: SweepFolder) -> Table:
    rows = rows_of(sweep)
    made = table("", "point", "<arm", "accuracy", "best attack's MSE", "latency")
    for row in rows[:MAX_SHOWN]:
        made.add_row(
            Text(row["point"]),
            Text(row.get("arm") or row["status"]),
            numbers.percent(row.get("test_accuracy")),
            numbers.significant(row.get("mse")),
            numbers.milliseconds(row.get("latency_median_ms")),
        )
    if len(rows) > MAX_SHOWN:
        made.caption = f"and {len(rows) - MAX_SHOWN} more rows in {CSV}"
    return made
