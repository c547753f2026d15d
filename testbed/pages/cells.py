"""Tables as plain cells; templates only lay them out.

A cell holds its text and, for a number, the unrounded value of ``results.json``: the template
writes it into ``data-value``, so that numbers of a page can be checked and reused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from testbed.privacy.intervals import Interval
from testbed.results import formats as numbers
from testbed.results.figures import Figure, Format
from testbed.results.findings import FEW_VICTIMS


@dataclass(frozen=True)
class Cell:
    """One cell: its text, its unrounded number, and a smaller second line."""

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
        """Whether each column after the first holds numbers."""
        rows = [row for row in self.rows if row.kind != "group"]
        return [
            any(row.cells[column].is_number for row in rows)
            for column in range(len(self.headings) - 1)
        ]


def words(text: str, note: str = "") -> Cell:
    """Return a cell of text."""
    return Cell(text, note=note, is_number=False)


def number(value: Interval | float | None, fmt: Format, note: str = "") -> Cell:
    """Return a cell showing a number, an estimate above its 95 % interval."""
    if isinstance(value, Interval):
        between = numbers.bounds(value, fmt)
        return Cell(fmt(value.value), value.value, "; ".join(filter(None, (between, note))))
    return Cell(fmt(value), value, note)


def part_cells(
    part: Any, figures: Sequence[Figure], notes: Mapping[str, str] = MappingProxyType({})
) -> list[Cell]:
    """Return a cell per figure of a tier or a device class; notes by the keys of figures."""
    return [number(each.of_part(part), each.fmt, notes.get(each.key, "")) for each in figures]


def victims_cell(victims: int | None) -> Cell:
    """Return a cell showing a number of victims, marked where there are few."""
    few = victims is not None and victims < FEW_VICTIMS
    return number(victims, numbers.count, "few" if few else "")


def group(label: str, width: int) -> Row:
    """Return a heading row within a table of ``width`` cells per row."""
    return Row(label, [words("")] * width, kind="group")
