"""Tables as plain cells; the template only lays them out.

A cell holds the text to show and, where it shows a number, the number as it stands in
``results.json``: the template writes it beside the text (``data-value``), so that what is shown can
be checked and reused without rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass

from testbed.results import formats as numbers
from testbed.results.schema import Interval

Format = Callable[[float | None], str]


@dataclass(frozen=True)
class Cell:
    """One cell: text, the number behind it, and a smaller second line."""

    text: str
    value: float | None = None
    note: str = ""
    is_number: bool = True


@dataclass(frozen=True)
class Row:
    """A labelled row; ``kind`` is ``group`` for a heading row, ``anchor``, ``best`` or empty."""

    label: str
    cells: list[Cell]
    note: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its column headings, the first of which heads the labels."""

    headings: list[str]
    rows: list[Row]

    @property
    def numeric(self) -> list[bool]:
        """Say for each column after the first whether its cells are numbers."""
        rows = [row for row in self.rows if row.kind != "group"]
        return [
            any(row.cells[column].is_number for row in rows)
            for column in range(len(self.headings) - 1)
        ]


def words(text: str, note: str = "") -> Cell:
    """Return a cell of text."""
    return Cell(text, note=note, is_number=False)


def number(value: float | None, fmt: Format, note: str = "") -> Cell:
    """Return a cell showing a number."""
    return Cell(fmt(value), value, note)


def scored(
    interval: Interval | None, fmt: Format, as_percent: bool = False, digits: int = 3
) -> Cell:
    """Return a cell showing an estimate above its 95 % interval."""
    value = interval.value if interval else None
    return Cell(fmt(value), value, numbers.bounds(interval, as_percent, digits))


def group(label: str, width: int) -> Row:
    """Return a heading row within a table of ``width`` cells per row."""
    return Row(label, [words("")] * width, kind="group")
