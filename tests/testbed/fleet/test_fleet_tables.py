"""Tables are read as spreadsheets save them, or refused with the real cause."""

import csv
from pathlib import Path

import pytest
import yaml

from testbed.core.errors import UserError
from testbed.fleet.catalogue import CATALOGUE_PATH, CatalogueDevice
from testbed.fleet.serving_load import recorded_requests
from testbed.fleet.table import NamedRow, Positive, read_table

COLUMNS = CatalogueDevice.columns()
PI = next(
    row
    for row in csv.DictReader(CATALOGUE_PATH.open(encoding="utf-8"))
    if row["name"] == "raspberry-pi-4"
) | {"title": "Raspberry Pi 4, d'après Tencent; mesuré"}


class Board(NamedRow):
    """A short row."""

    note: str = ""
    power_w: Positive
    size_mb: Positive | None = None


def pi() -> CatalogueDevice:
    """Return the device that every file below describes."""
    return CatalogueDevice.model_validate(PI)


def saved(path: Path, delimiter: str = ",", encoding: str = "utf-8", comma: bool = False) -> Path:
    """Write the device with CRLF, and blank rows and columns at the end."""
    row = dict(PI)
    if comma:
        for column in CatalogueDevice.numeric_columns():
            row[column] = row[column].replace(".", ",")
    with path.open("w", newline="", encoding=encoding) as stream:
        writer = csv.writer(stream, delimiter=delimiter, lineterminator="\r\n")
        writer.writerow([*COLUMNS, "", ""])
        writer.writerow([*(row[column] for column in COLUMNS), "", ""])
        writer.writerow([""] * (len(COLUMNS) + 2))
        writer.writerow([" "] * (len(COLUMNS) + 2))
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("comma", [False, True])
def test_the_ways_of_spreadsheets_give_the_same_device(
    tmp_path: Path, delimiter: str, encoding: str, comma: bool
) -> None:
    if delimiter == "," and comma:
        pytest.skip("spreadsheets with decimal commas use other delimiters")
    path = saved(tmp_path / "own.csv", delimiter, encoding, comma)
    assert read_table(path, CatalogueDevice) == [pi()]


def test_the_columns_of_numbers_are_known() -> None:
    assert Board.numeric_columns() == ["power_w", "size_mb"]
    assert set(CatalogueDevice.numeric_columns()) == {
        column
        for column in COLUMNS
        if column.startswith(("calibration_l", "calibration_m", "calibration_p", "calibration_a"))
    } | {"ram_mb", "threads", "power_active_w", "power_idle_w"}


@pytest.mark.parametrize(
    ("content", "boards"),
    [
        ("name;power_w;note;size_mb\na;1,5;x, 1,5;1,234\n", [("a", 1.5, "x, 1,5", 1.234)]),
        ("sep=;\r\nname;power_w;note;size_mb\r\na;2;;\r\n", [("a", 2.0, "", None)]),
        ("\n;;;\nname;power_w;note;size_mb\n;;;\na;1.5;;3\n", [("a", 1.5, "", 3.0)]),
        (
            '" name ", "power_w", note,size_mb\n"a, b", 2, "say ""x""",\n',
            [("a, b", 2.0, 'say "x"')],
        ),
        ("name\tpower_w\tnote\tsize_mb\na\t0,125\t\t2,500\n", [("a", 0.125, "", 2.5)]),
        ("name,power_w,note,size_mb\r5,1e3,1e3,\r", [("5", 1000.0, "1e3")]),
    ],
)
def test_small_files(tmp_path: Path, content: str, boards: list[tuple[object, ...]]) -> None:
    path = tmp_path / "boards.csv"
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    columns = ("name", "power_w", "note", "size_mb")
    wanted = [Board.model_validate(dict(zip(columns, row, strict=False))) for row in boards]
    assert read_table(path, Board) == wanted


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a;1,234;;", "row 2, column 'power_w': the comma of '1,234' may separate decimals or"),
        ("a;1,5;;\nb;1.234;;", "since row 3, column 'power_w' has a point ('1.234')"),
        ("a;1.234,5;;", "the comma of '1.234,5' may separate decimals or thousands"),
        ("a;1,5,6;;", "the comma of '1,5,6' may"),
        ("a;1,5;;\nb;1,2,3;;", "row 3, column 'power_w': must be a number above 0, got '1,2,3'"),
        ("a;2;;;x", "row 2: 5 cells, but the header names 4"),
    ],
)
def test_numbers_with_two_readings_are_refused(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "boards.csv"
    path.write_text("name;power_w;note;size_mb\n" + content + "\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_table(path, Board)
    assert says in str(caught.value)


def test_other_encodings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes("name,power_w,note,size_mb\na,1,mesuré,\n".encode("cp1252"))
    with pytest.raises(UserError) as caught:
        read_table(path, Board)
    assert f"{path}, row 2: not text in UTF-8 (near 'a,1,mesuré,')" in str(caught.value)
    assert "'CSV UTF-8'" in str(caught.value)


def test_a_missing_column_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    for header, says in (
        ("name|power_w|note", r"row 1: unknown column 'name\|power_w\|note'; allowed: name, note"),
        ("note;name", "row 1: the column 'power_w' is missing; the row names 'note', 'name'"),
    ):
        path.write_text(f"{header}\n", encoding="utf-8")
        with pytest.raises(UserError, match=says):
            read_table(path, Board)


def test_cells_in_yaml_are_read_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("- {name: 1e3, power_w: 0010, note: 1.10, size_mb: ~}\n", encoding="utf-8")
    assert read_table(path, Board) == [Board(name="1e3", power_w=10.0, note="1.10")]
    path.write_text("- {name: no, power_w: 1:20}\n", encoding="utf-8")
    with pytest.raises(UserError, match="column 'power_w': must be a number above 0, got '1:20'"):
        read_table(path, Board)


def test_the_ways_of_spreadsheets_for_requests(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    path.write_bytes(b"\xef\xbb\xbfdevice;arrival_s\r\n1;0,25\r\n0;1,5\r\n;\r\n")
    requests = recorded_requests(path, 2)
    assert requests.device.tolist() == [0, 1]
    assert requests.arrival_s.tolist() == [1.5, 0.25]


def test_a_catalogue_of_yaml_is_the_one_of_csv(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump([PI], allow_unicode=True), encoding="utf-8")
    assert read_table(path, CatalogueDevice) == [pi()]
