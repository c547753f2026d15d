"""``python -m testbed.devices``: lists, filters, shows sources, refuses unknown names."""

import csv
import io
import re
from pathlib import Path

import pytest

from testbed.devices import main
from testbed.fleet.catalogue import CATALOGUE_PATH, load_catalogue
from testbed.fleet.links import load_links

Captured = pytest.CaptureFixture[str]


def listed(capsys: Captured, *arguments: str) -> list[dict[str, str]]:
    assert main([*arguments, "--csv"]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_everything_is_listed(capsys: Captured) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(device.name in printed for device in load_catalogue())
    assert [row["name"] for row in listed(capsys)] == [device.name for device in load_catalogue()]


def test_filters(capsys: Captured) -> None:
    small = listed(capsys, "--class", "mcu", "--class", "mcu-npu", "--max-ram-mb", "0.3")
    assert small
    assert all(int(row["ram_bytes"]) <= 0.3 * 2**20 for row in small)
    assert {row["device_class"] for row in small} == {"mcu", "mcu-npu"}
    assert all(row["power_active_w"] for row in listed(capsys, "--with-power"))
    assert all("pi" in row["name"] for row in listed(capsys, "--search", "raspberry pi"))
    assert all(int(row["ram_bytes"]) >= 2**34 for row in listed(capsys, "--min-ram-mb", "16384"))


def test_memory_is_not_rounded(capsys: Captured) -> None:
    assert main(["raspberry-pi-4"]) == 0
    assert re.search(r"memory, MiB +1,024 ", capsys.readouterr().out)
    assert main(["--search", "raspberry pi 4"]) == 0
    assert " 1,024 " in capsys.readouterr().out


def test_one_device_with_its_sources(capsys: Captured) -> None:
    assert main(["nano-33-ble"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"memory, MiB +0\.250 ", printed)
    assert re.search(r"active power, W +0\.0645 ", printed)
    assert "stephanballer/deepedgebench" in printed


def test_links(capsys: Captured) -> None:
    assert main(["--links"]) == 0
    printed = capsys.readouterr().out
    assert all(link.name in printed for link in load_links())
    assert main(["lte", "--links"]) == 0
    assert "78.0 mW per Mbit/s + 547 mW" in capsys.readouterr().out


def test_own_catalogue(capsys: Captured, tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    header, first = CATALOGUE_PATH.read_text(encoding="utf-8").splitlines()[:2]
    path.write_text(f"{header}\n{first.replace('nucleo-l4r5zi', 'my-board', 1)}\n")
    names = [row["name"] for row in listed(capsys, "--catalogue", str(path))]
    assert names[-1] == "my-board"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rasberry-pi-4"], "did you mean 'raspberry-pi-4'?"),
        (["--class", "mcuu"], "did you mean 'mcu'?"),
        (["lt", "--links"], "unknown link 'lt'"),
        (["--catalogue", "nowhere.csv"], "nowhere.csv: cannot read"),
    ],
)
def test_wrong_arguments(capsys: Captured, arguments: list[str], says: str) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
