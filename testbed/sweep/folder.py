"""The folder of a sweep: a results folder per point, and ``sweep.json``, which lists them."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.core.errors import UserError
from testbed.core.files import check_folder_for_output, write_json
from testbed.results.writing import RESOLVED, check_folder
from testbed.sweep.grid import Point

MANIFEST = "sweep.json"
COMPARISON = "comparison"
JOBS = ".jobs"  # input files of concurrent points' processes
MANIFEST_VERSION = 1
COMPLETE, INTERRUPTED, FAILED, PENDING = "complete", "interrupted", "failed", "pending"


@dataclass
class SweepFolder:
    """The folder of a sweep and the points in it.

    Attributes
    ----------
    errors : why points failed, by name.
    note : about the comparison of all points.
    """

    path: Path
    points: Sequence[Point]
    errors: dict[str, str] = field(default_factory=dict)
    note: str = ""

    def of(self, point: Point) -> Path:
        """Return the results folder of a point."""
        return self.path / point.name

    def status(self, point: Point) -> str:
        """Return whether a point is complete, interrupted, failed or pending."""
        if _is_complete(self.of(point)):
            return COMPLETE
        if point.name in self.errors:
            return FAILED
        return INTERRUPTED if (self.of(point) / RESOLVED).exists() else PENDING

    @property
    def keys(self) -> list[str]:
        """The swept keys of all points, in order of appearance."""
        return list(dict.fromkeys(key for point in self.points for key in point.values))

    def save(self) -> None:
        """Write ``sweep.json``."""
        points = [
            {"name": point.name, "values": dict(point.values), "status": self.status(point)}
            | ({"error": self.errors[point.name]} if self.status(point) == FAILED else {})
            for point in self.points
        ]
        write_json(self.path / MANIFEST, {"version": MANIFEST_VERSION, "points": points})


def _is_complete(folder: Path) -> bool:
    return bool(_read(folder / "results.json").get("status") == COMPLETE)


def _read(path: Path) -> Mapping[str, Any]:
    """Return the object in a JSON file, an empty one if there is none that can be read."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


def check_sweep_folder(
    folder: Path, points: Sequence[Point], force: bool = False, resume: bool = False
) -> None:
    """Check that a sweep may use the folder; nothing is changed.

    Raises
    ------
    UserError : it is not empty, and neither ``force`` nor ``resume`` allows to use it; or a point
        in it was run with another scenario.
    """
    if any(point.name == COMPARISON for point in points):
        raise UserError(f"{COMPARISON}: this name is kept for the comparison; rename the scenario")
    check_folder_for_output(folder)
    if (folder / RESOLVED).exists():
        raise UserError(f"{folder}: is the results folder of one run; choose another with --out")
    if not folder.is_dir() or not any(folder.iterdir()):
        if resume:
            raise UserError(f"{folder}: nothing to resume (no {MANIFEST}); run without --resume")
        return
    if not (folder / MANIFEST).exists():
        raise UserError(f"{folder}: holds files that are no sweep; choose another with --out")
    if not (force or resume):
        raise UserError(
            f"{folder}: a sweep exists already; give --resume to run what it lacks, --force to "
            "replace it, or another folder with --out"
        )
    if resume:
        for point in points:
            if (folder / point.name / RESOLVED).exists():
                check_folder(folder / point.name, point.scenario, force=False, resume=True)


def open_sweep_folder(folder: Path, points: Sequence[Point], force: bool) -> SweepFolder:
    """Prepare a checked folder; remove the points of a sweep that ``force`` replaces.

    Also remove the ``JOBS`` folder of a killed sweep.

    Raises
    ------
    UserError : it cannot be written; nothing was removed.
    """
    try:
        if force and folder.is_dir():
            with tempfile.TemporaryFile(dir=folder):
                pass  # check that the folder can be written before any point is removed
            for name in [*_points_of(folder), COMPARISON]:
                old = folder / name
                if (old / RESOLVED).exists() or (old / "compare.json").exists():
                    shutil.rmtree(old)
        shutil.rmtree(folder / JOBS, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        sweep = SweepFolder(folder, points)
        sweep.save()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    return sweep


def _points_of(folder: Path) -> list[str]:
    """Return the names of the points in ``sweep.json``, except paths out of the folder."""
    points = _read(folder / MANIFEST).get("points")
    listed = points if isinstance(points, list) else []
    names = [point.get("name") for point in listed if isinstance(point, dict)]
    return [
        name
        for name in names
        if isinstance(name, str)
        and Path(name).name == name
        and name not in ("", "..")
        and "\0" not in name
    ]
