"""The built-in catalogue has sources; wrong catalogues are refused with row and column."""

import csv
from pathlib import Path

import pytest
import yaml

from testbed.core.errors import UserError
from testbed.fleet.calibration.build_catalogue import SELECTION_PATH, build_catalogue
from testbed.fleet.catalogue import (
    CATALOGUE_PATH,
    DEVICE_CLASSES,
    CatalogueDevice,
    load_catalogue,
)
from testbed.fleet.table import read_table

COLUMNS = CatalogueDevice.columns()
ROWS = list(csv.DictReader(CATALOGUE_PATH.open(encoding="utf-8")))


def test_every_number_has_its_source() -> None:
    for device in load_catalogue():
        assert device.source_latency
        assert device.source_ram or device.ram_bytes is None
        assert device.source_power or (device.power_active_w or device.power_idle_w) is None


def test_all_classes_are_there() -> None:
    catalogue = load_catalogue()
    assert len(catalogue) >= 40
    assert {device.device_class for device in catalogue} == set(DEVICE_CLASSES)
    assert catalogue.named("cloud-server").device_class == "server-desktop"


def test_memory_is_in_bytes() -> None:
    catalogue = load_catalogue()
    assert catalogue.named("nucleo-l4r5zi").ram_bytes == 640 * 1024
    assert catalogue.named("jetson-nano").ram_bytes == 4 * 2**30
    for device in catalogue:
        if device.ram_bytes is not None:
            small = device.device_class in ("mcu", "mcu-npu")
            assert (device.ram_bytes < 2**21) is small, device.name


def test_unknown_device() -> None:
    with pytest.raises(UserError) as caught:
        load_catalogue().named("raspbery-pi-4", "fleet.mix.2.device")
    message = str(caught.value)
    assert message.startswith("fleet.mix.2.device: unknown device 'raspbery-pi-4'")
    assert "did you mean 'raspberry-pi-4'?" in message
    assert "python -m testbed.devices" in message


def write(path: Path, rows: list[dict[str, str]], columns: list[str] | None = None) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns or COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_users_rows_are_added_and_replace(tmp_path: Path) -> None:
    own = [ROWS[0] | {"ram_mb": "2"}, ROWS[1] | {"name": "my-board"}]
    catalogue = load_catalogue(write(tmp_path / "own.csv", own))
    assert len(catalogue) == len(ROWS) + 1
    assert catalogue.named(ROWS[0]["name"]).ram_bytes == 2 * 2**20
    assert catalogue.named("my-board").title == ROWS[1]["title"]


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("device_class", "mcuu", "did you mean 'mcu'?"),
        ("precision", "fp8", "allowed: fp32, fp16, int8"),
        ("latency_family", "tpu", "unknown value 'tpu'"),
        ("ram_mb", "-1", "must be a number above 0, got '-1'"),
        ("ram_mb", "lots", "must be a number above 0, got 'lots'"),
        ("ram_mb", "nan", "must be a number above 0, got 'nan'"),
        ("ram_mb", "inf", "must be a number above 0, got 'inf'"),
        ("threads", "1.5", "must be a whole number"),
        ("calibration_latency_ms", "0", "must be a number above 0"),
        ("calibration_macs_conv3x3s1_m", "1e9", "must not exceed calibration_macs_m"),
        ("power_idle_w", "1e9", "must not exceed power_active_w"),
        ("source_latency", "", "must not be empty"),
        ("source_ram", "", "must not be empty"),
        ("source_power", "", "must not be empty"),
        ("name", "", "must not be empty"),
    ],
)
def test_a_wrong_cell_is_named(tmp_path: Path, column: str, value: str, says: str) -> None:
    good = next(row for row in ROWS if row["name"] == "raspberry-pi-4")
    path = write(tmp_path / "own.csv", [ROWS[1], good | {column: value}])
    with pytest.raises(UserError) as caught:
        read_table(path, CatalogueDevice)
    assert str(caught.value).startswith(f"{path}, row 3, column '{column}': ")
    assert says in str(caught.value)


def test_wrong_files(tmp_path: Path) -> None:
    for content, says in (
        ("", "has no rows; its first row must name the columns"),
        (",".join(COLUMNS[:-1]) + "\n", "row 1: the column 'source_power' is missing"),
        (",".join((*COLUMNS, "powr")) + "\n", "row 1: unknown column 'powr'"),
        (",".join((*COLUMNS, "name")) + "\n", "row 1: the column 'name' is given twice"),
        (",".join(COLUMNS) + "\nx,y\n", "row 2: 2 cells, but the header names 19"),
    ):
        path = tmp_path / "own.csv"
        path.write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=says):
            read_table(path, CatalogueDevice)
    with pytest.raises(UserError, match="cannot read"):
        read_table(tmp_path / "nowhere.csv", CatalogueDevice)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        read_table(tmp_path / "binary.csv", CatalogueDevice)
    path = write(tmp_path / "twice.csv", [ROWS[0], ROWS[0]])
    with pytest.raises(UserError, match=r"row 3, column 'name': .* is given twice"):
        read_table(path, CatalogueDevice)


def test_a_catalogue_in_yaml(tmp_path: Path) -> None:
    good = {key: value for key, value in ROWS[0].items() if value}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump([good | {"ram_mb": 2, "name": "my-board"}]), encoding="utf-8")
    device = load_catalogue(path).named("my-board")
    assert (device.ram_bytes, device.power_idle_w) == (2 * 2**20, None)
    for content, says in (
        ("7", "a table in YAML is a list of mappings"),
        ("- 7", "row 1: must be a mapping, got '7'"),
        (yaml.safe_dump([good | {"powr": 1}]), "row 1: unknown column 'powr'"),
        (
            yaml.safe_dump([good, good | {"ram_mb": [1]}]),
            r"row 2, column 'ram_mb': .* got '\['1'\]'",
        ),
        ("- {name: x}", "row 1, column 'title': must not be empty"),
        ("- {name: x", "line 1"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=says):
            read_table(path, CatalogueDevice)


def test_the_builder_needs_exactly_one_measurement() -> None:
    selection = list(csv.DictReader(SELECTION_PATH.open(encoding="utf-8")))
    assert [row["name"] for row in selection] == [row["name"] for row in ROWS]
    with pytest.raises(UserError, match=f"'{selection[0]['name']}' matches 0 rows"):
        build_catalogue([], selection)


def test_the_builder_copies_and_converts() -> None:
    wanted = next(
        row
        for row in csv.DictReader(SELECTION_PATH.open(encoding="utf-8"))
        if row["name"] == "nucleo-l4r5zi"
    )
    measured = {
        "name": wanted["measured_name"],
        "backend": wanted["measured_backend"],
        "precision": wanted["measured_precision"],
        "network_name": wanted["calibration_network"],
        "threads": wanted["measured_threads"],
        "note": "ram from the system description",
        "ram_mb": "640.0",
        "latency_ms": "123.4",
        "macs_m": "12.5",
        "macs_conv3x3s1_m": "9.9",
        "params_m": "0.08",
        "act_elems_m": "0.27",
        "power_active_w": "0.07",
        "power_idle_w": "",
        "source": "somewhere",
    }
    (row,) = build_catalogue([measured], [wanted])
    assert row["ram_mb"] == "0.625"
    assert row["calibration_latency_ms"] == "123.4"
    assert row["source_power"] == "somewhere (measured with the latency)"
