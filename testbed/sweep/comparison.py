"""Compares the points of a sweep, if they are comparable."""

import shlex

from testbed.compare.build import write_comparison
from testbed.compare.comparison import compare
from testbed.core.errors import UserError
from testbed.sweep.folder import COMPARISON, COMPLETE, SweepFolder


def compare_points(sweep: SweepFolder) -> None:
    """Write ``comparison/`` when all points are complete, or note why there is none.

    Points with different data, fleets or adversaries are not comparable: their differences would
    look like differences between defences (``testbed.compare``).
    """
    folders = [sweep.of(point) for point in sweep.points]
    if len(folders) < 2 or any(sweep.status(point) != COMPLETE for point in sweep.points):
        return
    names = [shlex.quote(point.name) for point in sweep.points]
    command = shlex.join(["python", "-m", "testbed.compare"]) + " " + " ".join(names)
    try:
        compared = compare(folders)
    except UserError as error:
        sweep.note = f"The points were not compared with one another: {error}."
        return
    write_comparison(compared, sweep.path / COMPARISON, command)
    sweep.note = "accuracy, attacks and costs of all points side by side."
