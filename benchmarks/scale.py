"""Runs large fleets on this machine, and measures the time and memory of all their processes.

    python benchmarks/scale.py --document docs/speed.md
    python benchmarks/scale.py --idle --document docs/speed.md    # bytes of an idle device instead

Every scenario is one command in a separate process. Once a second, the memory of the process and
all its children is summed up: proportional set sizes, which count shared pages once.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from frontier.records import Row, write_rows
from scaling.processes import Taken, kind_of_memory, measured

from testbed.core.errors import UserError
from testbed.pages.documents import Block, markdown_table, measured_into
from testbed.scenario.loading import load_scenario
from testbed.scenario.schema import Scenario

BLOCK = Block("python benchmarks/scale.py")
IDLE_BLOCK = Block("python benchmarks/scale.py --idle")
SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"
GB = 1e9
LONGEST_S = 3600.0


@dataclass(frozen=True)
class Asked:
    """The command of a scenario, and its limits on two cores (None: no limit)."""

    module: str = "testbed.run"
    options: tuple[str, ...] = ()
    limit_s: float | None = None
    limit_gb: float | None = None


ASKED = {
    SCENARIOS / "10k_devices.yaml": (Asked("testbed.run", (), 600.0, 4.0),),
    SCENARIOS / "1m_devices.yaml": (
        Asked("testbed.run", (), 600.0, 4.0),
        Asked("testbed.load", ("--requests-per-s", "5000"), 120.0, 4.0),
    ),
}
"""The commands of the scenarios with a limit; any other one is run by ``testbed.run`` without."""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "scenarios", nargs="*", type=Path, default=list(ASKED), metavar="scenario",
        help="scenario files (default: ten thousand and a million devices)",
    )  # fmt: skip
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY.PATH=VALUE",
        help="override a key of every scenario; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--idle", action="store_true",
        help="measure the memory of an idle device instead, in one process and on hosts of Ray",
    )  # fmt: skip
    parser.add_argument(
        "--sizes", type=int, nargs=2, default=[1000, 11_000], metavar="DEVICES",
        help="the two fleets whose difference --idle takes (default: 1000 11000)",
    )  # fmt: skip
    parser.add_argument("--hosts", type=int, default=2, help="on Ray, of --idle (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("results/scale"))
    parser.add_argument("--document", type=Path, help="Markdown file that gets the table")
    return parser.parse_args(arguments)


def run(path: Path, scenario: Scenario, asked: Asked, overrides: Sequence[str], out: Path) -> Row:
    """Run one command of a scenario and return its row.

    Raises
    ------
    UserError : its command failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", asked.module, str(path.resolve()), *asked.options]
    for override in overrides:
        command += ["--set", override]
    folder = out.resolve() / scenario.name
    if asked.module == "testbed.run":
        command += ["--out", str(folder), "--force"]
    longest_s = max(LONGEST_S, 3 * (asked.limit_s or 0.0))
    taken = measured(command, out / f"{scenario.name}-{asked.module}.log", longest_s)
    checks = _self_checks(folder) if asked.module == "testbed.run" else []
    return row_of(scenario.name, scenario.fleet.size, asked, taken, checks)


def row_of(name: str, devices: int, asked: Asked, taken: Taken, checks: Sequence[bool]) -> Row:
    """Return the measurements of one run as a row."""
    return {
        "scenario": name,
        "module": asked.module,
        "devices": devices,
        "wall_s": taken.wall_s,
        "cpu_s": taken.cpu_s,
        "peak_gb": taken.peak_bytes / GB,
        "processes": taken.peak_processes,
        "limit_s": asked.limit_s,
        "limit_gb": asked.limit_gb,
        "checks": len(checks),
        "checks_passed": sum(checks),
    }


def _self_checks(folder: Path) -> list[bool]:
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return [bool(check["passed"]) for check in results["self_checks"]]


def within(row: Row) -> bool:
    """Say whether a run kept its limits; always true without limits."""
    pairs = (("wall_s", "limit_s"), ("peak_gb", "limit_gb"))
    return all(row[limit] is None or row[took] <= row[limit] for took, limit in pairs)


def table(rows: Sequence[Row]) -> str:
    """Return the runs as a Markdown table."""
    headings = ["scenario", "command", "devices", "wall s", "CPU s"]
    headings += ["peak memory of all processes", "may take", "self-checks"]
    return markdown_table(headings, map(_cells, rows))


def _cells(row: Row) -> list[str]:
    count = row["processes"]
    return [
        f"`{row['scenario']}`",
        f"`{row['module']}`",
        f"{row['devices']:,}",
        f"{row['wall_s']:.0f}",
        f"{row['cpu_s']:.0f}",
        f"{row['peak_gb']:.2f} GB ({count} process{'' if count == 1 else 'es'})",
        _verdict(row),
        _checked(row),
    ]


def _verdict(row: Row) -> str:
    if row["limit_s"] is None:
        return "anything"
    kept = "kept" if within(row) else "**BROKEN**"
    return f"{row['limit_s'] / 60:g} min, {row['limit_gb']:g} GB: {kept}"


def _checked(row: Row) -> str:
    if not row["checks"]:
        return "it has none"
    text = f"{row['checks_passed']} of {row['checks']} passed"
    return text if row["checks_passed"] == row["checks"] else f"**{text}**"


def idle_table(measured_bytes: Mapping[str, Mapping[str, float]]) -> str:
    """Return the bytes per device by backend and process, as a Markdown table."""
    places = list(dict.fromkeys(place for each in measured_bytes.values() for place in each))
    rows = []
    for name, by_place in measured_bytes.items():
        cells = [f"{by_place[place]:.1f}" if place in by_place else "" for place in places]
        rows.append([name, *cells, f"{sum(by_place.values()):.1f}"])
    return markdown_table(["", *places, "together"], rows)


def measure_idle(sizes: Sequence[int], hosts: int) -> str:
    """Measure an idle device in one process and on Ray; return the text for the document."""
    from scaling.idle import bytes_per_device, idle_tree

    found = {
        "in one process": bytes_per_device(idle_tree(), sizes),
        f"on Ray, {hosts} hosts": bytes_per_device(idle_tree(backend="ray", hosts=hosts), sizes),
    }
    return (
        f"Bytes per device: the slope of all memory that is allocated, from {sizes[0]:,} to "
        f"{sizes[1]:,} devices, two tiers, two arms, two adversaries.\n\n{idle_table(found)}"
    )


def measure(options: argparse.Namespace) -> tuple[str, bool]:
    """Run the scenarios; return the text, and whether all runs kept their limits.

    Raises
    ------
    UserError : an option or a scenario is not valid.
    """
    smaller, larger = options.sizes
    if not 0 < smaller < larger:
        raise UserError(f"--sizes {smaller} {larger}: give a fleet and a larger one")
    if options.hosts < 1:
        raise UserError(f"--hosts {options.hosts}: give 1 or more")
    if options.idle:
        return measure_idle(options.sizes, options.hosts), True
    overrides = options.overrides
    scenarios = [(path, load_scenario(path, overrides)) for path in options.scenarios]
    rows: list[Row] = []
    for path, scenario in scenarios:
        for asked in ASKED.get(path.resolve(), (Asked(),)):
            rows.append(run(path, scenario, asked, overrides, options.out))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
            write_rows(options.out / "scale.csv", rows)
    sound = all(within(row) and row["checks_passed"] == row["checks"] for row in rows)
    text = f"{os.cpu_count()} cores; memory is {kind_of_memory()}, 1 GB is 10^9 bytes.\n\n"
    return text + table(rows), sound


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write the table; return 1 if a limit was exceeded or a self-check failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that child processes are ended
    options = parse(arguments)
    block = IDLE_BLOCK if options.idle else BLOCK
    inputs = [Path(__file__).parent / "scaling"] if options.idle else options.scenarios
    return measured_into(options.document, block, lambda: measure(options), inputs)


if __name__ == "__main__":
    sys.exit(main())
