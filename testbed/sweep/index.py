"""The index of a sweep: ``index.csv`` for tools and ``index.html`` for readers."""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from testbed.core.errors import UserError
from testbed.core.files import csv_text, write_bytes
from testbed.pages.cells import Cell, Row, Table, number, words
from testbed.pages.html import render
from testbed.results.figures import shown_in
from testbed.results.findings import Value, arm_figures
from testbed.results.reading import read_results
from testbed.sweep.folder import COMPLETE, SweepFolder

CSV, PAGE = "index.csv", "index.html"
Entry = dict[str, Any]


def rows_of(sweep: SweepFolder) -> list[Entry]:
    """Return one row per point and arm: the swept values, then the headline figures.

    An incomplete point has one row without figures.
    """
    rows: list[Entry] = []
    for point in sweep.points:
        status = sweep.status(point)
        head: Entry = {"point": point.name, "scenario": point.scenario.name, "status": status}
        head |= {key: _plain(point.values.get(key)) for key in sweep.keys}
        head["seed"] = point.scenario.seed
        figures: list[dict[str, Value]] = [{}]
        if status == COMPLETE:
            try:
                figures = arm_figures(read_results(sweep.of(point)).arms) or [{}]
            except UserError as error:
                sweep.errors[point.name] = str(error)
        rows += [
            {**head, **own, "error": sweep.errors.get(point.name) if not own else None}
            for own in figures
        ]
    return rows


def write_index(sweep: SweepFolder) -> None:
    """Write ``index.csv``, ``index.html`` and ``sweep.json``, each all or nothing.

    Raises
    ------
    UserError : the folder cannot be written.
    """
    rows = rows_of(sweep)
    write_bytes(sweep.path / CSV, csv_text(rows).encode("utf-8"))
    write_bytes(sweep.path / PAGE, _page(sweep, rows).encode("utf-8"))
    try:
        sweep.save()
    except OSError as error:
        raise UserError(f"{sweep.path}: cannot be written ({error.strerror})") from None


def index_table(sweep: SweepFolder, rows: Sequence[Entry]) -> Table:
    """Return the headline figures per point and arm as cells."""
    keys = sweep.keys
    figures = shown_in("sweep")
    headings = ["point", "arm", *keys, *(figure.label for figure in figures)]
    drawn = []
    for row in rows:
        arm = row.get("arm") or row["status"]
        cells: list[Cell] = [words(str(arm), row.get("error") or "")]
        cells += [words("" if row[key] is None else str(row[key])) for key in keys]
        cells += [number(row.get(figure.index_key), figure.fmt) for figure in figures]
        drawn.append(Row(row["point"], cells))
    return Table(headings, drawn)


def _page(sweep: SweepFolder, rows: Sequence[Entry]) -> str:
    return render(
        "testbed.sweep",
        "index.html.j2",
        title=sweep.path.resolve().name,
        points=len(sweep.points),
        reports={
            point.name: f"{quote(point.name)}/report.html"
            for point in sweep.points
            if sweep.status(point) == COMPLETE
        },
        note=sweep.note,
        compared=(sweep.path / "comparison" / "compare.html").exists(),
        figures=index_table(sweep, rows),
    )


def _plain(value: Any) -> Value:
    """Return a swept value as one cell of a table."""
    if value is None or isinstance(value, str | int | float):
        return value
    return json.dumps(value, sort_keys=True, default=str)
