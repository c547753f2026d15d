"""Workload E of the speed benchmark: one adversary ladder, its seconds and its memory.

    python benchmarks/ladder_speed.py --document docs/speed.md        (or: make bench)

`scenarios/adversary_ladder.yaml` with its 18 adversaries on two of its four arms (the same Gaussian
noise on every device, and the hijacked arm), after four rounds of training: attacks take most of
the time. Every repeat is a run of its own in new processes. Figures are medians over the repeats.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from statistics import median

import yaml
from frontier.records import Row, write_rows
from scaling.processes import kind_of_memory, measured

from testbed.pages.documents import Block, markdown_table, measured_into

BLOCK = Block("python benchmarks/ladder_speed.py")
SCENARIO = Path(__file__).resolve().parents[1] / "scenarios" / "adversary_ladder.yaml"
ARMS = ("noise", "hijacked")
LONGEST_S = 3600.0
COLUMNS = {
    "wall_s": ("run, s", "{:.0f}"),
    "attack_s": ("attack phases, s", "{:.0f}"),
    "attack_cpu_s": ("CPU s of attacks", "{:.0f}"),
    "idle_share": ("idle share of cores in attack phases", "{:.2f}"),
    "peak_gb": ("peak GB of all processes", "{:.2f}"),
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("results/ladder_speed"))
    parser.add_argument("--document", type=Path, help="Markdown file that gets the table")
    return parser.parse_args(arguments)


def shortened() -> list[str]:
    """Return the changes of the scenario, as ``--set`` takes them."""
    arms = yaml.safe_load(SCENARIO.read_text(encoding="utf-8"))["arms"]
    kept = [arm for arm in arms if arm["name"] in ARMS]
    return [
        f"arms={json.dumps(kept)}",
        "fleet.assignments=[]",
        "training.rounds=4",
        "training.evaluate_every_rounds=4",
        "evaluation.mutual_information=false",
    ]


def of_run(folder: Path, wall_s: float, peak_bytes: int) -> Row:
    """Return the figures of one run from its ``host.json``."""
    host = json.loads((folder / "host.json").read_text(encoding="utf-8"))
    attack_s = sum(p["wall_s"] for p in host["phases"] if p["name"].startswith("attack "))
    cpu_s = sum(attack["cpu_s"] for attack in host["attacks"])
    idle = 1.0 - cpu_s / (attack_s * (os.cpu_count() or 1))
    return {
        "wall_s": wall_s,
        "attack_s": attack_s,
        "attack_cpu_s": cpu_s,
        "idle_share": idle,
        "peak_gb": peak_bytes / 1e9,
    }


def table(rows: list[Row]) -> str:
    """Return medians, and the lowest and highest of each figure, as a Markdown table."""
    lines = []
    for name, (title, form) in COLUMNS.items():
        values = [row[name] for row in rows]
        ends = f"{form.format(min(values))} to {form.format(max(values))}"
        lines.append([title, form.format(median(values)), ends])
    return markdown_table(["workload E", f"median of {len(rows)}", "lowest to highest"], lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the ladder several times, and write the table."""
    options = parse(arguments)

    def measure() -> tuple[str, bool]:
        options.out.mkdir(parents=True, exist_ok=True)
        rows: list[Row] = []
        for repeat in range(options.repeats):
            folder = options.out / f"run{repeat}"
            command = [sys.executable, "-m", "testbed.run", str(SCENARIO), "--force"]
            command += ["--out", str(folder.resolve())]
            for setting in [*shortened(), *options.settings]:
                command += ["--set", setting]
            taken = measured(command, options.out / f"run{repeat}.log", LONGEST_S)
            rows.append({"repeat": repeat} | of_run(folder, taken.wall_s, taken.peak_bytes))
            print(f"{repeat + 1}: {rows[-1]['attack_s']:.0f} s of attacks", flush=True)
            write_rows(options.out / "ladder_speed.csv", rows)
        cores = f"{os.cpu_count()} cores; memory is {kind_of_memory()}, 1 GB is 10^9 bytes."
        return f"{cores}\n\n{table(rows)}", True

    return measured_into(options.document, BLOCK, measure, [SCENARIO, Path(__file__)])


if __name__ == "__main__":
    sys.exit(main())
