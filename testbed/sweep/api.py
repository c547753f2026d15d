"""Sweeps from Python: ``run_sweep`` beside ``run_scenario``."""

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.adversaries.base import silent
from testbed.api import Overrides, RunResult, changes_of
from testbed.core.errors import UserError
from testbed.core.process import Interrupts, stop_telemetry

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class SweepResult:
    """The results of a sweep.

    Attributes
    ----------
    folder : holds a results folder per point, ``index.csv``, ``index.html`` and, if the points are
        comparable, ``comparison/``.
    points : the complete points by name.
    failed : why the others are not complete, by name.
    index : the headline figures, one row per point and arm (a ``pyarrow.Table``).
    """

    folder: Path
    points: Mapping[str, RunResult]
    failed: Mapping[str, str]
    index: "pa.Table" = field(repr=False)


def run_sweep(
    scenario: str | Path | Mapping[str, Any],
    *,
    overrides: Overrides = (),
    out: str | Path | None = None,
    jobs: int = 1,
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
) -> SweepResult:
    """Run every point of a scenario's ``sweep:`` section (docs/sweeps.md).

    Parameters
    ----------
    scenario : a scenario file, or a mapping of its sections, with a section ``sweep``.
    overrides : as of ``run_scenario``; applied to every point, before the sweep's own values.
    out : the sweep's folder; ``results/NAME`` by default.
    jobs : points that run at once, each in its own process, on one Ray; does not affect results.
    resume : run the points that the folder lacks.
    force : replace the sweep in the folder.
    progress : show points and phases on standard error.

    Raises
    ------
    UserError : the input is wrong; nothing was overwritten. A point that fails later does not
        raise: it is in ``failed``.
    KeyboardInterrupt : the sweep was interrupted; ``resume`` continues it.
    """
    stop_telemetry()
    import pyarrow as pa

    from testbed.cli.display import RichDisplay
    from testbed.scenario.loading import read_tree
    from testbed.sweep.command import default_sweep_folder
    from testbed.sweep.folder import COMPLETE
    from testbed.sweep.grid import expand
    from testbed.sweep.index import rows_of
    from testbed.sweep.runner import run_points

    if isinstance(scenario, str | Path):
        tree, where = read_tree(Path(scenario)), str(scenario)
    elif isinstance(scenario, Mapping):
        tree, where = dict(scenario), "scenario"
    else:
        kind = type(scenario).__name__
        raise UserError(f"scenario: give a file or a mapping of sections, not {kind}")
    points = expand(tree, changes_of(overrides), where)
    folder = Path(out) if out is not None else default_sweep_folder(points, files=1)
    with Interrupts() as interrupts:
        sweep = run_points(
            points,
            folder,
            (lambda line: print(line, file=sys.stderr, flush=True)) if progress else silent,
            RichDisplay if progress else nullcontext,
            stop_requested=lambda: interrupts.requested,
            jobs=jobs,
            force=force,
            resume=resume,
        )
    complete = [point for point in points if sweep.status(point) == COMPLETE]
    return SweepResult(
        folder,
        {point.name: RunResult(sweep.of(point)) for point in complete},
        {p.name: sweep.errors.get(p.name, "") for p in points if p not in complete},
        pa.Table.from_pylist(_aligned(rows_of(sweep))),
    )


def _aligned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with the columns of all of them."""
    columns = dict.fromkeys(column for row in rows for column in row)
    return [{column: row.get(column) for column in columns} for row in rows]
