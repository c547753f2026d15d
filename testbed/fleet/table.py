"""Reads tables of published numbers; every refusal names the file, the row and the column.

A table is a CSV file with a header, or a YAML file with a list of mappings (``.yaml``, ``.yml``).
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from testbed.core.errors import UserError
from testbed.core.registry import nearest
from testbed.scenario.loading import parse_yaml

YAML_SUFFIXES = (".yaml", ".yml")


def read_table(
    path: Path, columns: tuple[str, ...], others_allowed: bool = False
) -> list["TableRow"]:
    """Read a table that has these columns, in any order.

    A mapping of a YAML file may leave out what it would leave empty.

    Parameters
    ----------
    path : the file.
    columns : the columns it must have.
    others_allowed : whether it may have further ones, which are ignored.

    Raises
    ------
    UserError : the file cannot be read, its header is wrong, a row has another length.
    """
    if path.suffix.lower() in YAML_SUFFIXES:
        return _read_yaml(path, columns, others_allowed)
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.reader(stream, strict=True))
    except OSError as error:
        raise UserError(f"{path}: cannot read the table ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    header = [cell.strip() for cell in rows[0]] if rows else []
    _check_header(path, header, columns, others_allowed)
    found = []
    for number, cells in enumerate(rows[1:], start=2):
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise UserError(
                f"{path}, row {number}: {len(cells)} cells, but the header names {len(header)}"
            )
        found.append(TableRow(path, number, dict(zip(header, cells, strict=True))))
    return found


def _read_yaml(path: Path, columns: tuple[str, ...], others_allowed: bool) -> list["TableRow"]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot read the table ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    content = parse_yaml(text, str(path))
    if not isinstance(content, list):
        raise UserError(f"{path}: a table in YAML is a list of mappings, one for each row")
    found = []
    for number, mapping in enumerate(content, start=1):
        if not isinstance(mapping, dict):
            raise UserError(f"{path}, row {number}: must be a mapping, got {mapping!r:.40}")
        for column in mapping:
            if column not in columns and not others_allowed:
                raise UserError(
                    f"{path}, row {number}: unknown column '{column}'"
                    f"{nearest(column, list(columns))}; allowed: {', '.join(columns)}"
                )
        cells = {column: _text(mapping.get(column)) for column in (*columns, *mapping)}
        found.append(TableRow(path, number, cells))
    return found


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _check_header(
    path: Path, header: list[str], columns: tuple[str, ...], others_allowed: bool
) -> None:
    for column in columns:
        if column not in header:
            raise UserError(f"{path}, row 1: the column '{column}' is missing")
    for column in header:
        if column not in columns and not others_allowed:
            raise UserError(
                f"{path}, row 1: unknown column '{column}'{nearest(column, list(columns))}; "
                f"allowed: {', '.join(columns)}"
            )
        if header.count(column) > 1:
            raise UserError(f"{path}, row 1: the column '{column}' is given twice")


class TableRow:
    """One row being parsed."""

    def __init__(self, path: Path, number: int, cells: dict[str, str]) -> None:
        self._where = f"{path}, row {number}"
        self._cells = {column: cell.strip() for column, cell in cells.items()}

    def refuse(self, column: str, reason: str) -> NoReturn:
        """Refuse the value of one column.

        Raises
        ------
        UserError : always.
        """
        raise UserError(f"{self._where}, column '{column}': {reason}")

    def given(self, column: str) -> bool:
        """Say whether the cell holds anything."""
        return bool(self._cells[column])

    def optional_text(self, column: str) -> str:
        """Return a text, which may be empty."""
        return self._cells[column]

    def text(self, column: str) -> str:
        """Return a text that must not be empty."""
        if not self.given(column):
            self.refuse(column, "must not be empty")
        return self._cells[column]

    def choice(self, column: str, allowed: tuple[str, ...]) -> str:
        """Return one of the allowed texts."""
        value = self.text(column)
        if value not in allowed:
            hint = nearest(value, list(allowed))
            self.refuse(column, f"unknown value '{value}'{hint}; allowed: {', '.join(allowed)}")
        return value

    def real(self, column: str) -> float:
        """Return any finite number."""
        return self._number(column, lambda value: value > float("-inf"), "a finite number")

    def positive(self, column: str) -> float:
        """Return a number above 0."""
        return self._number(column, lambda value: value > 0.0, "a number above 0")

    def not_negative(self, column: str) -> float:
        """Return a number of at least 0."""
        return self._number(column, lambda value: value >= 0.0, "a number of at least 0")

    def optional_positive(self, column: str) -> float | None:
        """Return a number above 0, or None where the cell is empty."""
        return self.positive(column) if self.given(column) else None

    def optional_not_negative(self, column: str) -> float | None:
        """Return a number of at least 0, or None where the cell is empty."""
        return self.not_negative(column) if self.given(column) else None

    def _number(self, column: str, accept: Callable[[float], bool], allowed: str) -> float:
        text = self.text(column)
        try:
            value = float(text)
        except ValueError:
            self.refuse(column, f"must be {allowed}, got '{text}'")
        if not (accept(value) and value < float("inf")):
            self.refuse(column, f"must be {allowed}, got '{text}'")
        return value
