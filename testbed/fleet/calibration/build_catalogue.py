"""Builds ``catalogue.csv`` from published measurements: one selected measurement per device.

``catalogue_selection.csv`` selects a measurement for each device and adds what measurements lack
(class, title, memory from the vendor's specification). All other numbers are copied from the
selected row, with their source::

    python -m testbed.fleet.calibration.build_catalogue measured_latencies.csv
"""

import csv
import sys
from pathlib import Path

from testbed.core.arguments import parser_of
from testbed.core.errors import UserError, command
from testbed.core.files import csv_text, write_text
from testbed.fleet.catalogue import CATALOGUE_PATH, CatalogueDevice
from testbed.fleet.table import read_table

SELECTION_PATH = Path(__file__).with_name("catalogue_selection.csv")
MCU_CLASSES = ("mcu", "mcu-npu")
KIB_PER_MIB = 1024.0

Row = dict[str, str]


def build_catalogue(measured: list[Row], selection: list[Row]) -> list[Row]:
    """Return the catalogue's rows.

    Raises
    ------
    UserError : a selected device matches no measurement, or more than one.
    """
    return [_catalogue_row(wanted, _find(wanted, measured)) for wanted in selection]


def _find(wanted: Row, measured: list[Row]) -> Row:
    """Return the one measurement that the selection describes; ``*`` matches any threads."""
    matching = [
        row
        for row in measured
        if row["name"] == wanted["measured_name"]
        and row["backend"] == wanted["measured_backend"]
        and row["precision"] == wanted["measured_precision"]
        and row["network_name"] == wanted["calibration_network"]
        and wanted["measured_threads"] in ("*", row["threads"])
        and wanted["measured_note"] in row["note"]
    ]
    if len(matching) != 1:
        raise UserError(f"{SELECTION_PATH.name}: '{wanted['name']}' matches {len(matching)} rows")
    return matching[0]


def _catalogue_row(wanted: Row, row: Row) -> Row:
    ram_mb, source_ram = _memory(wanted, row)
    threads = row["threads"] if row["threads"].isdigit() else ""
    cells = {
        "name": wanted["name"],
        "title": wanted["title"],
        "device_class": wanted["device_class"],
        "ram_mb": ram_mb,
        "precision": wanted["precision"],
        "backend": row["backend"],
        "latency_family": wanted["latency_family"],
        "threads": threads,
        "calibration_network": row["network_name"],
        "calibration_latency_ms": row["latency_ms"],
        "calibration_macs_m": row["macs_m"],
        "calibration_macs_conv3x3s1_m": row["macs_conv3x3s1_m"],
        "calibration_params_m": row["params_m"],
        "calibration_activations_m": row["act_elems_m"],
        "power_active_w": row["power_active_w"],
        "power_idle_w": row["power_idle_w"],
        "source_latency": f"{row['source']} [{row['name']}]",
        "source_ram": source_ram,
        "source_power": _power_source(row),
    }
    return {column: cells[column] for column in CatalogueDevice.columns()}


def _memory(wanted: Row, row: Row) -> tuple[str, str]:
    """Return the memory in MiB and its source; microcontroller rows give it in KiB."""
    if wanted["ram_mb"]:
        return wanted["ram_mb"], wanted["source_ram"]
    if not row["ram_mb"]:
        return "", ""
    ram_mb = float(row["ram_mb"])
    if wanted["device_class"] in MCU_CLASSES:
        ram_mb /= KIB_PER_MIB
    if "ram from the system description" in row["note"]:
        return f"{ram_mb:.9g}", f"system description of the submission: {row['source']}"
    unverified = ", unverified" if "ram from memory, unverified" in row["note"] else ""
    return f"{ram_mb:.9g}", f"stated with the measurement{unverified}"


def _power_source(row: Row) -> str:
    """Return the source of the power: the one in the row's note, else the row's source."""
    if not row["power_active_w"]:
        return ""
    _, in_note, power = row["note"].partition("power: ")
    if in_note:
        return power.partition("; cores: ")[0]
    how = (
        row["note"] if row["note"].startswith("whole-board power") else "measured with the latency"
    )
    return f"{row['source']} ({how})"


def _read(path: Path) -> list[Row]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror})") from None


@command
def main(arguments: list[str] | None = None) -> int:
    """Write the catalogue; return the exit status."""
    parser = parser_of("testbed.fleet.calibration.build_catalogue", __doc__)
    parser.add_argument("measured", type=Path, help="CSV of published latencies")
    parser.add_argument("--out", type=Path, default=CATALOGUE_PATH, help="catalogue to write")
    options = parser.parse_args(arguments)
    rows = build_catalogue(_read(options.measured), _read(SELECTION_PATH))
    write_text(options.out, csv_text(rows, CatalogueDevice.columns()))
    devices = read_table(options.out, CatalogueDevice)
    print(f"{options.out}: {len(devices)} devices")
    return 0


if __name__ == "__main__":
    sys.exit(main())
