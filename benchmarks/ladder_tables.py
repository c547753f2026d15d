"""Climbs the ladder of attacks on several data sets, and puts the tables into docs/ladder.md.

    python benchmarks/ladder_tables.py --seeds 0 1 2 --jobs 2
    python benchmarks/ladder_tables.py --data olivetti --seeds 0 --set training.provider.epochs=30

Runs ``scenarios/digits_ladder.yaml``, ``scenarios/cifar10_ladder.yaml`` and
``scenarios/olivetti_ladder.yaml`` with every seed, each run in one thread, compares the seeds of
each, and writes the table of arms and the table of attacks between the marks of the document. What
the output folder has is not run again, so that the same command goes on after an interrupt, and
adds seeds. The exit code is 1 if a run failed; tables of data with a failed run stay as they were.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from testbed.compare.build import write_comparison
from testbed.compare.comparison import compare
from testbed.compare.markdown import TABLES
from testbed.core.errors import UserError
from testbed.core.process import Interrupts, stop_telemetry
from testbed.pages.documents import Block, check_blocks, write_blocks
from testbed.scenario.loading import parse_overrides, read_tree
from testbed.sweep.folder import COMPLETE, MANIFEST, SweepFolder
from testbed.sweep.grid import Point, expand

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = {
    "digits": ROOT / "scenarios" / "digits_ladder.yaml",
    "cifar10": ROOT / "scenarios" / "cifar10_ladder.yaml",
    "olivetti": ROOT / "scenarios" / "olivetti_ladder.yaml",
}
ONE_THREAD = [
    ("engine.backend", "inline"),
    ("engine.cloud_threads", 1),
    ("training.provider.threads", 1),
]
COMPARED = "compared"
"""Folder of the comparisons, beside those of the runs."""
FAILED, INTERRUPTED = 1, 130


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each in one thread")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="change a key of all scenarios; needs another --out, or one without results",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("results/ladder"))
    parser.add_argument(
        "--document", type=Path, default=Path("docs/ladder.md"),
        help="Markdown file that gets the tables (default: %(default)s)",
    )  # fmt: skip
    return parser.parse_args(arguments)


def points_of(data: str, seeds: Sequence[int], overrides: Sequence[str]) -> list[Point]:
    """Return one run per seed of the ladder on some data.

    Raises
    ------
    UserError : a key or value is not valid, or the scenario is a sweep.
    """
    changes = parse_overrides(overrides)
    for key, _ in changes:
        if key.split(".")[0] in ("sweep", "seed"):
            raise UserError(f"--set {key}: runs differ by their seeds alone; give --seeds")
    chosen = [*ONE_THREAD, *changes, ("sweep.seed", list(seeds))]
    return expand(read_tree(SCENARIOS[data]), chosen, str(SCENARIOS[data]), prefixed=True)


def blocks_of(data: str) -> list[Block]:
    """Return the blocks for the tables of some data, in the order of ``TABLES``."""
    return [Block(command, data) for command, _ in TABLES]


def tables_of(folders: Sequence[Path], out: Path, command: str) -> list[str]:
    """Compare the seeds of some data, write the comparison's folder and return its tables.

    Raises
    ------
    UserError : a results folder is damaged, or the comparison cannot be written.
    """
    compared = compare(folders)
    write_comparison(compared, out, command)
    return [table(compared, command) for _, table in TABLES]


def run_all(points: Sequence[Point], options: argparse.Namespace) -> SweepFolder:
    """Run the points missing in the output folder; a failed run does not stop the others."""
    stop_telemetry()
    from testbed.cli.display import RichDisplay
    from testbed.sweep.runner import run_points

    with Interrupts() as interrupts:
        return run_points(
            points,
            options.out,
            lambda line: print(line, file=sys.stderr, flush=True),
            RichDisplay,
            stop_requested=lambda: interrupts.requested,
            jobs=options.jobs,
            resume=(options.out / MANIFEST).exists(),
        )


def command_of(options: argparse.Namespace) -> str:
    """Return the command that reproduces the tables, without options that change no result."""
    words = ["python", "benchmarks/ladder_tables.py", "--data", *options.data]
    words += ["--seeds", *map(str, options.seeds)]
    for override in options.overrides:
        words += ["--set", override]
    return shlex.join(words)


def main(arguments: list[str] | None = None) -> int:
    """Run, compare, and write the tables."""
    options = parse(arguments)
    try:
        points = {
            data: points_of(data, options.seeds, options.overrides)
            for data in dict.fromkeys(options.data)
        }
        # Refused before anything runs.
        check_blocks(options.document, *(block for data in points for block in blocks_of(data)))
        sweep = run_all([point for own in points.values() for point in own], options)
        texts: dict[Block, str] = {}
        failed = False
        for data, own in points.items():
            lacking = [point.name for point in own if sweep.status(point) != COMPLETE]
            for name in lacking:
                reason = sweep.errors.get(name, "not complete")
                print(f"failed: {name}: {reason}", file=sys.stderr)
            if lacking:
                failed = True
                continue
            folders = [sweep.of(point) for point in own]
            tables = tables_of(folders, options.out / COMPARED / data, command_of(options))
            texts |= zip(blocks_of(data), tables, strict=True)
        if texts:
            write_blocks(options.document, texts)
            print(f"tables: {options.document}")
        return FAILED if failed else 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
