"""Reads CSV files as spreadsheets save them: other delimiters, decimal commas, blank cells.

A file is refused where its text or a number can be read in two ways.
"""

import codecs
import csv
import io
import re
from collections.abc import Collection
from pathlib import Path

from testbed.core.errors import UserError

DELIMITERS = ",;\t"
_COMMA_NUMBER = re.compile(r"[-+]?\d*,\d+([eE][-+]?\d+)?")
_MAYBE_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
Cells = list[str]


def decoded(path: Path, content: bytes) -> str:
    """Return the text of a table in UTF-8, with or without byte order mark, or marked UTF-16.

    Raises
    ------
    UserError : it is in another encoding, or no text.
    """
    try:
        text = content.decode("utf-16" if content.startswith(UTF_16) else "utf-8-sig")
        if "\0" in text:
            raise UserError(f"{path}: not a text file")
        return text
    except UnicodeDecodeError as error:
        if b"\0" in content:
            raise UserError(f"{path}: not a text file") from None
        row = content.count(b"\n", 0, error.start) + 1
        before = content[: error.start].rsplit(b"\n", 1)[-1][-20:]
        after = content[error.start :].split(b"\n", 1)[0][:20]
        near = (before + after).decode("cp1252", errors="replace").strip()
        raise UserError(
            f"{path}, row {row}: not text in UTF-8 (near '{near}'); save the file as "
            "'CSV UTF-8', since spreadsheets otherwise write the system's own encoding"
        ) from None


def spreadsheet_rows(
    path: Path, text: str, columns: Collection[str], numeric: Collection[str]
) -> tuple[tuple[int, Cells], list[tuple[int, Cells]]]:
    """Return the numbered header and rows; blank rows and blank columns at the end are left out.

    Parameters
    ----------
    columns : names that the header may have; they decide on the delimiter.
    numeric : those of numbers. Unless the delimiter is a comma, a comma in them is a decimal one.

    Raises
    ------
    UserError : no header, rows of other lengths than the header, or numbers with two readings.
    csv.Error : not a CSV file.
    """
    text, stated = _stated_delimiter(text)
    delimiter = stated or max(DELIMITERS, key=lambda one: _known_columns(text, one, columns))
    first = 2 if stated else 1
    numbered = [
        (number, [cell.strip() for cell in cells])
        for number, cells in enumerate(_parsed(text, delimiter), start=first)
        if any(cell.strip() for cell in cells)
    ]
    if not numbered:
        raise UserError(f"{path}: the file has no rows; its first row must name the columns")
    (place, header), *rows = numbered
    while not header[-1]:
        header.pop()
    for number, cells in rows:
        while len(cells) > len(header) and not cells[-1]:
            cells.pop()
        if len(cells) != len(header):
            raise UserError(
                f"{path}, row {number}: {len(cells)} cells, but the header names {len(header)}"
            )
    if delimiter != ",":
        _decimal_points(path, header, rows, numeric)
    return (place, header), rows


def _parsed(text: str, delimiter: str) -> list[Cells]:
    lines = io.StringIO(text, newline="")
    return list(csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True))


def _stated_delimiter(text: str) -> tuple[str, str]:
    """Return the text without a first line such as ``sep=;``, and what that line states."""
    match = re.match(r"\"?sep=([,;\t])\"?[,;\t]*(\r\n|\r|\n)", text, re.IGNORECASE)
    return (text[match.end() :], match.group(1)) if match else (text, "")


def _known_columns(text: str, delimiter: str, columns: Collection[str]) -> tuple[int, int]:
    first = next((line for line in text.splitlines() if line.strip(f" {DELIMITERS}")), "")
    names = {name.strip().strip('"').strip() for name in first.split(delimiter)}
    return len(names & set(columns)), len(names)


def _decimal_points(
    path: Path, header: Cells, rows: list[tuple[int, Cells]], numeric: Collection[str]
) -> None:
    """Replace decimal commas in the columns of numbers by points.

    ``1,234`` alone may be 1.234 or 1234. It is 1.234 where another number of the file has a comma
    that separates no thousands, and no number has a point.
    """
    places = [place for place, name in enumerate(header) if name in numeric]
    cells = [(number, place, row[place]) for number, row in rows for place in places]
    with_comma = [cell for cell in cells if "," in cell[2]]
    if not with_comma:
        return
    with_point = [cell for cell in cells if "." in cell[2]]
    decimal = any(
        _COMMA_NUMBER.fullmatch(text) and not _MAYBE_THOUSANDS.fullmatch(text)
        for _, _, text in with_comma
    )
    if with_point or not decimal:
        number, place, text = with_comma[0]
        why = "may separate decimals or thousands"
        if with_point:
            other, column, point = with_point[0]
            why += f", since row {other}, column '{header[column]}' has a point ('{point}')"
        raise UserError(
            f"{path}, row {number}, column '{header[place]}': the comma of '{text}' {why}; write "
            "all numbers with a decimal point and no separator of thousands"
        )
    for _, row in rows:
        for place in places:
            if _COMMA_NUMBER.fullmatch(row[place]):
                row[place] = row[place].replace(",", ".")
