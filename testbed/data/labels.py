"""Classes and persons of several tables: one number for each name, whatever the files' own codes.

A column holds text, class numbers with declared names (the Hugging Face ``ClassLabel``), numbers
without names, or true and false, and must hold the same in all tables. Names decide what is equal:
two files may declare the same names in another order.

A class is missing where the cell is empty, or -1 (the Hugging Face mark of an unlabelled row).
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from testbed.core.errors import UserError
from testbed.data.images import IntArray
from testbed.data.tables import EncodedTable

MISSING = -1
MISSING_WORDS = ("nan", "null", "n/a", "<na>")
EXACT = 2.0**53
"""Floats from here on are not exact whole numbers."""

FEW = 3

Kind = Literal[
    "text", "class numbers with names", "class numbers without names", "true and false", "nothing"
]


@dataclass(frozen=True)
class Codes:
    """The values of one column over all tables.

    Attributes
    ----------
    codes : number of each row's name (N,), ``MISSING`` where the row has none.
    names : in the order of the numbers.
    """

    codes: IntArray
    names: list[str]


def cells_of(batch: pa.RecordBatch, column: str) -> list[Any]:
    """Return a column's values; those of categories (dictionary-encoded) are read as their text."""
    cells = batch.column(column)
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    values: list[Any] = cells.to_pylist()
    return values


def check_labels(table: EncodedTable, column: str) -> None:
    """Refuse a column that cannot hold classes or persons.

    Raises
    ------
    UserError : the column holds lists, dates and the like, or declares a name twice.
    """
    _kind(table, column)


def number_labels(
    tables: Sequence[EncodedTable], column: str, values: Sequence[list[Any]]
) -> Codes:
    """Give every name of a column one number in all tables.

    The numbers follow the names' declared order, of training files first; else they are sorted.

    Parameters
    ----------
    values : one list per table, as ``cells_of`` returns them.

    Raises
    ------
    UserError : the tables hold different kinds of values, share no class name, or a value is not
        one of the declared classes.
    """
    kinds = [_kind(table, column) for table in tables]
    _check_one_kind(tables, column, kinds)
    names = [
        _names(table, column, kind, rows)
        for table, kind, rows in zip(tables, kinds, values, strict=True)
    ]
    used = {name for rows in names for name in rows if name is not None}
    if "class numbers with names" in kinds:
        first = sorted(tables, key=lambda table: table.official_test)
        order = list(dict.fromkeys(name for table in first for name in _declared(table, column)))
    elif "class numbers without names" in kinds:
        if len(used) > 2 and min(map(int, used)) == MISSING:
            used.discard(str(MISSING))
        order = sorted(used, key=int)
    else:
        order = sorted(used)
    numbers = {name: number for number, name in enumerate(order)}
    codes = [numbers.get(name, MISSING) if name else MISSING for rows in names for name in rows]
    return Codes(np.array(codes, dtype=np.int64), order)


def doubtful_names(tables: Sequence[EncodedTable], column: str, names: list[str]) -> list[str]:
    """Return sentences on names of text that may be one, or none; declared names are meant."""
    if {_kind(table, column) for table in tables} - {"nothing"} != {"text"}:
        return []
    spellings: dict[str, list[str]] = {}
    for name in names:
        plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        spellings.setdefault(plain, []).append(name)
    sentences = [
        f"column '{column}': {' and '.join(map(repr, group))} count as different, and differ only "
        "in capitals, spaces or Unicode form"
        for group in spellings.values()
        if len(group) > 1
    ]
    sentences += [
        f"column '{column}': the text '{name}' counts as a name; leave the cell empty if it is none"
        for name in names
        if name.strip().lower() in MISSING_WORDS
    ]
    more = len(sentences) - FEW
    return sentences[:FEW] + ([f"column '{column}': {more} more of these"] if more > 0 else [])


def _kind(table: EncodedTable, column: str) -> Kind:
    held = table.schema.field(column).type
    kind = held.value_type if pa.types.is_dictionary(held) else held
    if pa.types.is_null(kind):
        return "nothing"
    if pa.types.is_boolean(kind):
        return "true and false"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        named = _declared(table, column)
        return "class numbers with names" if named else "class numbers without names"
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if any(is_text(kind) for is_text in (*texts, pa.types.is_binary, pa.types.is_large_binary)):
        return "text"
    raise UserError(
        f"{table.where}: column '{column}' holds {held}; whole numbers or text are read"
    )


def _declared(table: EncodedTable, column: str) -> list[str]:
    """Return the names that the table declares for its class numbers, in order; [] without any."""
    names = table.feature(column).get("names")
    if isinstance(names, dict):  # {"0": "cat", "1": "dog"}, as in dataset cards
        numbers = [str(number) for number in range(len(names))]
        if set(names) != set(numbers):
            raise UserError(
                f"{table.where}: column '{column}' declares names of the class numbers "
                f"{_few(list(names))}; they must be 0 to {len(names) - 1}"
            )
        names = [names[number] for number in numbers]
    if not isinstance(names, list):
        return []
    texts = [str(name) for name in names]
    twice = sorted(name for name in set(texts) if texts.count(name) > 1)
    if twice:
        raise UserError(f"{table.where}: column '{column}' declares the class '{twice[0]}' twice")
    return texts


def _check_one_kind(tables: Sequence[EncodedTable], column: str, kinds: Sequence[Kind]) -> None:
    """Refuse tables of which one cannot know which values mean the same."""
    known = [(table, kind) for table, kind in zip(tables, kinds, strict=True) if kind != "nothing"]
    for table, kind in known[1:]:
        first, first_kind = known[0]
        if kind != first_kind:
            raise UserError(
                f"column '{column}' holds {first_kind} in {first.where}, but {kind} in "
                f"{table.where}: which are the same is unknown; write all files in one way"
            )
        names, others = _declared(first, column), _declared(table, column)
        if names and not set(names) & set(others):
            raise UserError(
                f"column '{column}' declares other classes in {table.where} ({_few(others)}) than "
                f"in {first.where} ({_few(names)}): no name is in both"
            )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:FEW]) + (", ..." if len(names) > FEW else "")


def _names(table: EncodedTable, column: str, kind: Kind, values: list[Any]) -> list[str | None]:
    declared = _declared(table, column)
    cache: dict[Any, str | None] = {}
    names: list[str | None] = []
    for value in values:
        if value not in cache:
            cache[value] = _name(table, column, kind, declared, value)
        names.append(cache[value])
    return names


def _name(
    table: EncodedTable, column: str, kind: Kind, declared: list[str], value: Any
) -> str | None:
    """Return the name of one value, or None where it names nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if kind == "true and false":
        return str(value).lower()
    if kind == "text":
        try:
            text = value.decode() if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError:
            raise UserError(
                f"{table.where}: column '{column}' holds bytes that are not UTF-8 text"
            ) from None
        return text if text.strip() else None
    inexact = isinstance(value, float) and abs(value) >= EXACT
    if inexact or not math.isfinite(value) or value != int(value):
        raise UserError(f"{table.where}: column '{column}' holds {value}, which is no class number")
    number = int(value)
    if kind == "class numbers without names":
        return str(number)
    if number == MISSING:
        return None
    if not 0 <= number < len(declared):
        raise UserError(
            f"{table.where}: column '{column}' holds {number}, but there are {len(declared)} "
            f"classes, 0 to {len(declared) - 1}"
        )
    return declared[number]
