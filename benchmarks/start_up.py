"""Measures how long commands take to start, the smallest run, and the memory of the main scenario.

    python benchmarks/start_up.py --document docs/speed.md

Commands are compared with ``python -c "import torch"``, in turn in fresh processes and by their
processor time, which other load hardly changes. One run of each before warms Python's compiled
modules. Wall times are also shown, and need a machine without other load.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scaling.processes import ROOT, Taken, kind_of_memory, measured

from testbed.pages.documents import Block, markdown_table, measured_into

BLOCK = Block("python benchmarks/start_up.py")
SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"
SMOKE, MAIN = SCENARIOS / "smoke.yaml", SCENARIOS / "100_devices.yaml"
TORCH = ("-c", "import torch")
LONGEST_S = 3600.0


@dataclass(frozen=True)
class Command:
    """A command, and how many imports of torch it may take (None: any number)."""

    arguments: tuple[str, ...]
    limit: float | None = None

    @property
    def title(self) -> str:
        """The command as it is typed."""
        return " ".join(self.arguments[1:]).replace(f"{SCENARIOS}/", "scenarios/")


COMMANDS = (
    Command(("-m", "testbed.run", "--help"), 0.1),
    Command(("-m", "testbed.run", "--list"), 0.5),
    Command(("-m", "testbed.run", str(SMOKE), "--dry-run"), 1.8),
    Command(("-m", "testbed.run", str(MAIN), "--dry-run"), 1.8),
    Command(("-m", "testbed.run", str(SCENARIOS / "adversary_ladder.yaml"), "--dry-run")),
    *(
        Command(("-m", f"testbed.{name}", "--help"), 0.1)
        for name in ("compare", "devices", "export", "load", "models", "profile", "validate_costs")
    ),
)
RUNS = ((SMOKE, 10.0, None), (MAIN, None, 2.5))
"""Scenarios that are run, with their limits: seconds of wall time, and GB of all processes."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=5, help="of each command (default: 5)")
    parser.add_argument("--out", type=Path, default=Path("results/start_up"))
    parser.add_argument("--document", type=Path, help="Markdown file that gets the tables")
    return parser.parse_args(arguments)


def spent(arguments: Sequence[str]) -> tuple[float, float]:
    """Run Python with these arguments; return its wall time and its processor time in seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(  # noqa: S603 - the testbed's own commands
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True
    )
    wall_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def starts(repeats: int) -> list[list[str]]:
    """Return one row per command: seconds, and the median of its ratios to an import of torch."""
    commands = [TORCH, *(command.arguments for command in COMMANDS)]
    for arguments in commands:
        spent(arguments)
    rounds = [[spent(arguments) for arguments in commands] for _ in range(repeats)]
    rows = []
    for index, command in enumerate(COMMANDS, start=1):
        ratio = statistics.median(each[index][1] / each[0][1] for each in rounds)
        wall_s = statistics.median(each[index][0] for each in rounds)
        rows.append(
            [f"`{command.title}`", f"{wall_s:.2f}", f"{ratio:.2f}", verdict(ratio, command.limit)]
        )
    return rows


def verdict(value: float, limit: float | None) -> str:
    """Return the limit and whether a value keeps it."""
    if limit is None:
        return "anything"
    return f"{limit:g}: {'kept' if value <= limit else '**BROKEN**'}"


def run_row(path: Path, limit_s: float | None, limit_gb: float | None, taken: Taken) -> list[str]:
    """Return the row of a run."""
    limits = []
    if limit_s is not None:
        limits.append(f"{verdict(taken.wall_s, limit_s)} (s)")
    if limit_gb is not None:
        limits.append(f"{verdict(taken.peak_bytes / 1e9, limit_gb)} (GB)")
    return [
        f"`{path.stem}`",
        f"{taken.wall_s:.1f}",
        f"{taken.cpu_s:.1f}",
        f"{taken.peak_bytes / 1e9:.2f} GB ({taken.peak_processes} processes)",
        ", ".join(limits),
    ]


def run(path: Path, out: Path) -> Taken:
    """Run a scenario without kept models.

    Raises
    ------
    UserError : it failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "testbed.run", str(path), "--force"]
    command += ["--out", str((out / path.stem).resolve())]
    command += ["--set", "training.reuse_models=false"]
    return measured(command, out / f"{path.stem}.log", LONGEST_S)


def measure(options: argparse.Namespace) -> tuple[str, bool]:
    """Return the tables, and whether every limit was kept."""
    started = starts(options.repeats)
    runs = [run_row(*each, run(each[0], options.out)) for each in RUNS]
    text = "\n\n".join(
        (
            markdown_table(
                ("command", "wall s", "CPU time / that of `import torch`", "may take"), started
            ),
            markdown_table(
                ("run", "wall s", "CPU s", f"peak {kind_of_memory()} of all processes", "may take"),
                runs,
            ),
        )
    )
    return text, not _broken([*started, *runs])


def _broken(rows: Sequence[Sequence[str]]) -> bool:
    return any("BROKEN" in row[-1] for row in rows)


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write the tables; return 1 if a limit was exceeded."""
    options = parse(arguments)
    return measured_into(options.document, BLOCK, lambda: measure(options), [SMOKE, MAIN])


if __name__ == "__main__":
    sys.exit(main())
