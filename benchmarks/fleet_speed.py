"""Measures the fleet engine against Flower's simulation, pfl-research and the arithmetic alone.

    python benchmarks/fleet_speed.py --document docs/speed.md        (or: make bench)

Workload A trains a small network on every device and averages; B sends features of every device to
a server that finishes the network; C is a split-federated SiftFunnel round. Contenders take turns,
each time in fresh processes; the first round of every process is left out; figures are medians over
the repeats, ratios are medians of the ratios within a repeat.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from frontier.records import read_rows, write_rows

from testbed.core.errors import UserError
from testbed.report.marked import Marks, write_between

HERE = Path(__file__).resolve().parent
TITLES = {
    "ours": "this testbed",
    "limit": "torch alone, 2 processes",
    "flower_simulation": "Flower's simulation",
    "pfl_research": "pfl-research",
}
WORKLOADS = {
    "A": ("ours", "limit", "flower_simulation", "pfl_research"),
    "B": ("ours", "limit", "flower_simulation"),
    "C": ("ours", "limit"),
}
LARGE = 10_000
"""Devices at which only the engine and the limit run."""
TIME_LIMIT_S = 1800.0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--devices", type=int, nargs="+", default=[100, 1000, LARGE])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of a process")
    parser.add_argument(
        "--pfl-python", help="interpreter of an environment with pfl and torch; none: left out"
    )
    parser.add_argument("--out", type=Path, default=Path("results/speed"))
    parser.add_argument("--document", type=Path, help="Markdown file that gets the table")
    return parser.parse_args()


def contenders(workload: str, devices: int, pfl_python: str | None) -> Iterator[str]:
    """Yield who runs a workload at a number of devices."""
    for name in WORKLOADS[workload]:
        if devices >= LARGE and name not in ("ours", "limit"):
            continue
        if name == "pfl_research" and pfl_python is None:
            continue
        yield name


def run_once(contender: str, workload: str, devices: int, rounds: int, pfl_python: str) -> float:
    """Return the device-rounds per second of one process, without its first round.

    Raises
    ------
    UserError : the contender failed; the message has its last line.
    """
    command = [sys.executable, "-m", "speed"]
    if contender == "pfl_research":
        command = [
            pfl_python,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "-m",
            "speed",
        ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent))),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(  # noqa: S603
        [*command, contender, workload, str(devices), str(rounds + 1)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("seconds ")]
    if done.returncode or not lines:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise UserError(f"{contender}, workload {workload}, {devices} devices: {last}")
    seconds: list[float] = json.loads(lines[-1].removeprefix("seconds "))
    return devices / median(seconds[1:])


def table(rows: list[dict[str, Any]]) -> str:
    """Return medians over the repeats and ratios to our engine as a Markdown table."""
    lines = [
        "| workload | devices | contender | device-rounds per second | lowest to highest | "
        "this testbed's multiple |",
        "|---|---|---|---|---|---|",
    ]
    keys = sorted({(row["workload"], row["devices"]) for row in rows})
    for workload, devices in keys:
        own = [r for r in rows if (r["workload"], r["devices"]) == (workload, devices)]
        ours = {r["repeat"]: r["rate"] for r in own if r["contender"] == "ours"}
        for name in WORKLOADS[workload]:
            rates = {r["repeat"]: r["rate"] for r in own if r["contender"] == name}
            if not rates:
                continue
            both = [ours[repeat] / rate for repeat, rate in rates.items() if repeat in ours]
            multiple = f"{median(both):.2f}" if both and name != "ours" else ""
            lines.append(
                f"| {workload} | {devices:,} | {TITLES[name]} | {median(rates.values()):,.0f} | "
                f"{min(rates.values()):,.0f} to {max(rates.values()):,.0f} | {multiple} |"
            )
    return "\n".join(lines)


def main() -> int:
    """Let the contenders take turns, then write the table."""
    arguments = parse()
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / "speed.csv"
        write_rows(path, [])
        for repeat in range(arguments.repeats):
            for devices in arguments.devices:
                for workload in arguments.workloads:
                    for name in contenders(workload, devices, arguments.pfl_python):
                        rate = run_once(
                            name, workload, devices, arguments.rounds, arguments.pfl_python
                        )
                        print(
                            f"{repeat + 1}: {workload}, {devices}, {name}: {rate:.0f}", flush=True
                        )
                        row = {"workload": workload, "devices": devices, "contender": name}
                        rows = [*read_rows(path), row | {"repeat": repeat, "rate": rate}]
                        write_rows(path, rows)
        text = (
            f"{os.cpu_count()} cores, {arguments.repeats} repeats of {arguments.rounds} timed "
            "rounds.\n\n" + table(read_rows(path))
        )
        print(text)
        if arguments.document is not None:
            marks = Marks("<!-- speed:begin -->", "<!-- speed:end -->")
            write_between(arguments.document, (marks, text))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
