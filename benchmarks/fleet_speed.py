"""Measures the fleet engine against Flower's simulation, pfl-research and the arithmetic alone.

    python benchmarks/fleet_speed.py --document docs/speed.md        (or: make bench)

Workload A trains a small network on every device and averages; B sends features of every device to
a server that finishes the network; C is a split-federated SiftFunnel round; D is an epoch of the
provider's training, on all cores. Contenders alternate, each in new processes. The first round or
epoch of every process is excluded. Figures are medians over the repeats; ratios are medians of the
ratios within a repeat.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from frontier.records import Row, read_rows, write_rows
from speed.central_training import CASES, IMAGES

from server.machine import has_bf16
from testbed.core.errors import UserError
from testbed.pages.documents import Block, markdown_table, measured_into

HERE = Path(__file__).resolve().parent
TITLES = {
    "ours": "this testbed",
    "limit": "torch alone, 2 processes",
    "flower_simulation": "Flower's simulation",
    "pfl_research": "pfl-research",
    "plain_loop": "plain torch loop",
}
WORKLOADS = {
    "A": ("ours", "limit", "flower_simulation", "pfl_research"),
    "B": ("ours", "limit", "flower_simulation"),
    "C": ("ours", "limit"),
    "D": ("ours", "plain_loop"),
}
BLOCK = Block("python benchmarks/fleet_speed.py")
LARGE = 10_000
"""Devices at which only the engine and the limit run."""
TIME_LIMIT_S = 1800.0


def parse(arguments: list[str] | None) -> argparse.Namespace:
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
    parser.add_argument(
        "--resume", action="store_true", help="go on with the rows that --out has, and add to them"
    )
    parser.add_argument("--document", type=Path, help="Markdown file that gets the table")
    return parser.parse_args(arguments)


def contenders(workload: str, devices: int, pfl_python: str | None) -> Iterator[str]:
    """Yield the contenders for a workload and a number of devices."""
    for name in WORKLOADS[workload]:
        if devices >= LARGE and name not in ("ours", "limit"):
            continue
        if name == "pfl_research" and pfl_python is None:
            continue
        yield name


def run_once(contender: str, workload: str, devices: int, rounds: int, pfl_python: str) -> float:
    """Return the device-rounds per second of one process, without its first round.

    For the cases of workload D, these are images per second, without the first epoch.

    Raises
    ------
    UserError : the contender failed; the message contains its last line.
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
    with TemporaryDirectory(prefix="speed-") as folder:  # Flower's simulation leaves one behind
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent))),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": folder,
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
    # pfl-research aborts now and then when its processes part, after the last round.
    if not lines or (done.returncode and contender != "pfl_research"):
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise UserError(f"{contender}, workload {workload}, {devices} devices: {last}")
    seconds: list[float] = json.loads(lines[-1].removeprefix("seconds "))
    return devices / median(seconds[1:])


def of(rows: Sequence[Row], workload: str, devices: int, contender: str) -> dict[int, float]:
    """Return the rates of one contender, by repeat."""
    key = (workload, devices, contender)
    return {
        row["repeat"]: row["rate"]
        for row in rows
        if (row["workload"], row["devices"], row["contender"]) == key
    }


def flatness(rows: Sequence[Row]) -> str:
    """Return the cost of a device-round of the engine in larger fleets, as a Markdown table."""
    rows = [row for row in rows if row["workload"] in WORKLOADS]
    sizes = sorted({row["devices"] for row in rows})
    lines = []
    for workload in sorted({row["workload"] for row in rows}):
        first = of(rows, workload, sizes[0], "ours")
        cells = []
        for size in sizes[1:]:
            larger = of(rows, workload, size, "ours")
            both = [first[repeat] / rate for repeat, rate in larger.items() if repeat in first]
            cells.append(f"{median(both):.2f}" if both else "")
        lines.append([workload, *cells])
    return (
        f"Time per device-round of this testbed, as a multiple of that at {sizes[0]:,} devices:\n\n"
        + markdown_table(["workload", *(f"{size:,} devices" for size in sizes[1:])], lines)
    )


def table(rows: Sequence[Row]) -> str:
    """Return medians over the repeats and ratios to our engine as a Markdown table."""
    headings = ["workload", "devices", "contender", "repeats x rounds"]
    headings += ["device-rounds per second", "lowest to highest", "this testbed's multiple"]
    return markdown_table(headings, _lines(rows, "ABC"))


def training_table(rows: Sequence[Row]) -> str:
    """Return the images per second of the provider's training as a Markdown table."""
    headings = ["workload", "images", "contender", "repeats x epochs"]
    headings += ["images per second", "lowest to highest", "this testbed's multiple"]
    return markdown_table(headings, _lines(rows, "D"))


def _lines(rows: Sequence[Row], workloads: str) -> list[list[str]]:
    lines = []
    keys = sorted({(row["workload"], row["devices"]) for row in rows})
    for workload, devices in keys:
        if workload[0] not in workloads:
            continue
        ours = of(rows, workload, devices, "ours")
        for name in WORKLOADS[workload[0]]:
            rates = of(rows, workload, devices, name)
            if not rates:
                continue
            both = [ours[repeat] / rate for repeat, rate in rates.items() if repeat in ours]
            rounds = _rounds(rows, workload, devices, name)
            multiple = f"{median(both):.2f}" if both and name != "ours" else ""
            lines.append(
                [
                    *(workload, f"{devices:,}", TITLES[name], f"{len(rates)} x {rounds}"),
                    f"{median(rates.values()):,.0f}",
                    f"{min(rates.values()):,.0f} to {max(rates.values()):,.0f}",
                    multiple,
                ]
            )
    return lines


def _rounds(rows: Sequence[Row], workload: str, devices: int, contender: str) -> str:
    """Return the number of rounds timed in each process: one number or a range."""
    key = (workload, devices, contender)
    counts = {r["rounds"] for r in rows if (r["workload"], r["devices"], r["contender"]) == key}
    return str(*counts) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def turns(arguments: argparse.Namespace) -> Iterator[tuple[int, int, str, str]]:
    """Yield the runs in the order in which contenders alternate."""
    trainings = CASES if "D" in arguments.workloads else ()
    for repeat in range(arguments.repeats):
        for devices in arguments.devices:
            for workload in arguments.workloads:
                if workload != "D":
                    for name in contenders(workload, devices, arguments.pfl_python):
                        yield repeat, devices, workload, name
        for case in trainings:
            if not case.endswith("bf16") or has_bf16(torch.device("cpu")):
                for name in WORKLOADS["D"]:
                    yield repeat, IMAGES, case, name


def measure(arguments: argparse.Namespace, path: Path) -> list[Row]:
    """Run the contenders alternately; write every rate as soon as it is known."""
    rows = read_rows(path) if arguments.resume else []
    known = {(r["repeat"], r["devices"], r["workload"], r["contender"]) for r in rows}
    write_rows(path, rows)
    for turn in turns(arguments):
        if turn in known:
            continue
        repeat, devices, workload, name = turn
        rate = run_once(name, workload, devices, arguments.rounds, arguments.pfl_python)
        print(f"{repeat + 1}: {workload}, {devices}, {name}: {rate:.0f}", flush=True)
        row = {"workload": workload, "devices": devices, "contender": name}
        rows.append(row | {"repeat": repeat, "rounds": arguments.rounds, "rate": rate})
        write_rows(path, rows)
    return rows


def processor() -> str:
    """Return the number of cores, the processor's name, and what widens its arithmetic."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    facts = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name", platform.processor()).strip() or "unknown processor"
    wide = [flag for flag in ("avx512f", "avx512_bf16") if flag in facts.get("flags", "").split()]
    return f"{os.cpu_count()} cores, {', '.join([name, *wide])}."


def main(arguments: list[str] | None = None) -> int:
    """Let the contenders take turns, then write the tables."""
    options = parse(arguments)

    def measured() -> tuple[str, bool]:
        options.out.mkdir(parents=True, exist_ok=True)
        rows = measure(options, options.out / "speed.csv")
        parts = [processor()]
        if any(row["workload"] in WORKLOADS for row in rows):
            parts += [table(rows), flatness(rows)]
        if any(row["workload"] in CASES for row in rows):
            parts.append(training_table(rows))
        return "\n\n".join(parts), True

    return measured_into(options.document, BLOCK, measured, [Path(__file__).parent / "speed"])


if __name__ == "__main__":
    sys.exit(main())
