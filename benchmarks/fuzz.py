"""Feeds generated bad files to every reader of the testbed.

    python benchmarks/fuzz.py --document docs/reliability.md

Scenarios (as text, as trees, with sweeps), device catalogues, availability traces, published
latencies, images in parquet, and the files of finished and interrupted runs are damaged at random.
A reader may accept a file or refuse it in one sentence (``UserError``, exit code 2), after which
every file of an existing results folder is as before; anything else ends the campaign with the
smallest case that shows it. Outside temporary folders nothing is written.
"""

import argparse
import logging
import math
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

from fuzzing.campaign import run
from fuzzing.inputs import input_targets
from fuzzing.results import result_targets

from testbed import run_scenario
from testbed.pages.documents import Block, markdown_table, measured_into

ROOT = Path(__file__).resolve().parents[1]
BLOCK = Block("python benchmarks/fuzz.py")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cases", type=int, default=14_000, help="over all targets")
    parser.add_argument("--results", type=Path, help="a finished run (default: smoke is run)")
    parser.add_argument("--document", type=Path, help="Markdown file that gets the table")
    return parser.parse_args(arguments)


def campaign(arguments: argparse.Namespace) -> str:
    """Damage all files, and return the table."""
    data = os.environ.get("TESTBED_DATA_DIR", "")
    found = sorted(Path(data).glob("devices/*latenc*.csv")) if data else []
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        finished = arguments.results
        if finished is None:
            finished = folder / "smoke"
            run_scenario(ROOT / "scenarios" / "smoke.yaml", out=finished)
        targets = input_targets(folder / "inputs", ROOT / "scenarios", next(iter(found), None))
        targets += result_targets(folder / "results", finished)
        share = arguments.cases / sum(target.weight for target in targets)
        total: Counter[str] = Counter()
        begun = time.monotonic()
        for target in targets:
            began = time.monotonic()
            counts = run(target, math.ceil(share * target.weight))
            rows.append(row(target.name, counts, began))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
            total += counts
        rows.append(row("**all**", total, begun))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    return table(rows)


def row(name: str, counts: Counter[str], began: float) -> list[str]:
    """Return a row of the table; any other behaviour of a reader would have ended the campaign."""
    numbers = (counts.total(), counts["accepted"], counts["refused"], 0)
    return [name, *(f"{number:,}" for number in numbers), f"{time.monotonic() - began:.0f}"]


def table(rows: list[list[str]]) -> str:
    """Return the rows as a Markdown table."""
    headings = ["file", "cases", "accepted", "refused in a sentence", "anything else", "seconds"]
    return markdown_table(headings, rows)


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign and print its table."""
    options = parse(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)  # readers log their messages
    return measured_into(
        options.document,
        BLOCK,
        lambda: (campaign(options), True),
        [ROOT / "benchmarks" / "fuzzing"],
        shown=False,
    )


if __name__ == "__main__":
    sys.exit(main())
