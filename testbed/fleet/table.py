"""Reads tables of published numbers as typed rows; every error names the file, row and column.

A table is a CSV file with a header, as spreadsheets save it, or a YAML file with a list of mappings
(``.yaml``, ``.yml``), whose cells are read as they are written.
"""

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from testbed.core.errors import UserError
from testbed.core.registry import nearest
from testbed.fleet.spreadsheet import decoded, spreadsheet_rows
from testbed.scenario.loading import parse_yaml

YAML_SUFFIXES = (".yaml", ".yml")


class Row(BaseModel):
    """Base of the rows of a table: its fields are the columns; those with a default may be empty.

    A row class with ``extra="ignore"`` ignores the other columns of its table.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, str_strip_whitespace=True, coerce_numbers_to_str=True
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_cells(cls, cells: Any) -> Any:
        if not isinstance(cells, dict):
            raise ValueError(f"must be a mapping, got {cells!r:.40}")
        return {column: cell for column, cell in cells.items() if not _empty(cell)}

    @classmethod
    def columns(cls) -> list[str]:
        """Return the names of the columns."""
        return [field.alias or name for name, field in cls.model_fields.items()]

    @classmethod
    def numeric_columns(cls) -> list[str]:
        """Return the names of the columns of numbers."""
        return [
            field.alias or name
            for name, field in cls.model_fields.items()
            if _of_numbers(field.annotation)
        ]


def _of_numbers(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(_of_numbers, get_args(annotation)))


def _empty(cell: Any) -> bool:
    return cell is None or not str(cell).strip()


AnyRow = TypeVar("AnyRow", bound=Row)


def must_be(allowed: str) -> WrapValidator:
    """Return a validator whose error names the ``allowed`` values."""

    def validate(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(f"must be {allowed}, got '{value!s:.40}'") from None

    return WrapValidator(validate)


def one_of(*allowed: str) -> AfterValidator:
    """Return a validator that accepts the ``allowed`` texts."""

    def validate(value: str) -> str:
        if value not in allowed:
            hint = nearest(value, list(allowed))
            raise ValueError(f"unknown value '{value}'{hint}; allowed: {', '.join(allowed)}")
        return value

    return AfterValidator(validate)


def refusal(column: str, reason: str) -> PydanticCustomError:
    """Return the error of a validator of several columns, which the message reports for one."""
    return PydanticCustomError("refused", "{reason}", {"column": column, "reason": reason})


_FINITE = Field(allow_inf_nan=False)
_AS_TEXT = BeforeValidator(str)  # true and false of YAML are no numbers
Real = Annotated[float, _FINITE, _AS_TEXT, must_be("a finite number")]
Positive = Annotated[float, _FINITE, Field(gt=0), _AS_TEXT, must_be("a number above 0")]
NotNegative = Annotated[float, _FINITE, Field(ge=0), _AS_TEXT, must_be("a number of at least 0")]
Count = Annotated[int, Field(gt=0), _AS_TEXT, must_be("a whole number above 0")]


class NamedRow(Row):
    """A row with a name that no other row of its table has."""

    name: str


AnyNamed = TypeVar("AnyNamed", bound=NamedRow)


class NamedRows(Generic[AnyNamed]):
    """Rows by name, in the order of the table.

    Parameters
    ----------
    kind : noun for a row in messages.
    rows : a row replaces an earlier one of the same name.
    listed : text of messages about where the names are listed; by default it lists them.
    """

    def __init__(self, kind: str, rows: Iterable[AnyNamed], listed: str = "") -> None:
        self._rows = {row.name: row for row in rows}
        self._kind = kind
        self._listed = listed or f"known: {', '.join(self._rows)}"

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def __iter__(self) -> Iterator[AnyNamed]:
        """Iterate over the rows."""
        return iter(self._rows.values())

    def named(self, name: str, key_path: str = "name") -> AnyNamed:
        """Return one row; messages name the ``key_path`` that the name was given at.

        Raises
        ------
        UserError : no row of that name.
        """
        if name not in self._rows:
            hint = nearest(name, list(self._rows))
            raise UserError(f"{key_path}: unknown {self._kind} '{name}'{hint}; {self._listed}")
        return self._rows[name]


def read_table(path: Path, row: type[AnyRow]) -> list[AnyRow]:
    """Read a table: CSV with all columns in any order, or YAML, where empty cells may be left out.

    Raises
    ------
    UserError : the file cannot be read, or its header, a row or a cell is wrong.
    """
    in_yaml = path.suffix.lower() in YAML_SUFFIXES
    try:
        text = decoded(path, path.read_bytes())
        numbered = _yaml_rows(path, text) if in_yaml else _csv_rows(path, text, row)
    except OSError as error:
        raise UserError(f"{path}: cannot read the table ({error.strerror})") from None
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV file ({error})") from None
    rows: list[AnyRow] = []
    names: set[str] = set()
    for number, cells in numbered:
        where = f"{path}, row {number}"
        try:
            rows.append(row.model_validate(cells))
        except ValidationError as error:
            raise UserError(where + _wrong_cell(error, row)) from None
        if isinstance(named := rows[-1], NamedRow):
            if named.name in names:
                raise UserError(f"{where}, column 'name': '{named.name}' is given twice")
            names.add(named.name)
    return rows


def _yaml_rows(path: Path, text: str) -> Iterable[tuple[int, Any]]:
    content = parse_yaml(text, str(path), as_text=True)
    if not isinstance(content, list):
        raise UserError(f"{path}: a table in YAML is a list of mappings, one for each row")
    return enumerate(content, start=1)


def _csv_rows(path: Path, text: str, row: type[Row]) -> list[tuple[int, Any]]:
    """Return the rows that are not empty, with their numbers in the file."""
    known = row.columns()
    (place, header), rows = spreadsheet_rows(path, text, known, row.numeric_columns())
    where = f"{path}, row {place}"
    for column in header:
        if column not in known and row.model_config["extra"] == "forbid":
            raise UserError(f"{where}{_unknown(column, row)}")
        if header.count(column) > 1:
            raise UserError(f"{where}: the column '{column}' is given twice")
    for column in known:
        if column not in header:
            names = ", ".join(f"'{name}'" for name in header)
            raise UserError(
                f"{where}: the column '{column}' is missing; the row names {names:.200}"
            )
    return [(number, dict(zip(header, cells, strict=True))) for number, cells in rows]


def _unknown(column: str, row: type[Row]) -> str:
    known = row.columns()
    return f": unknown column '{column}'{nearest(column, known)}; allowed: {', '.join(known)}"


def _wrong_cell(error: ValidationError, row: type[Row]) -> str:
    """Return the end of the sentence on a row."""
    kind, location, reason = first_problem(error)
    if kind == "extra_forbidden":
        return _unknown(str(location[0]), row)
    where = f", column '{location[0]}'" if location else ""
    return f"{where}: {'must not be empty' if kind == 'missing' else reason}"


def first_problem(error: ValidationError) -> tuple[str, tuple[int | str, ...], str]:
    """Return kind, location and reason; unknown keys come first, as they explain missing ones."""
    problems = error.errors(include_url=False)
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    location = (first["ctx"]["column"],) if first["type"] == "refused" else first["loc"]
    return first["type"], location, first["msg"].removeprefix("Value error, ")
