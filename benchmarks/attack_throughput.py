"""Times every attack's training and reconstruction against a plain torch loop, side by side.

    python benchmarks/attack_throughput.py --document docs/adversaries.md

Both do the same arithmetic on the same images, and their results are compared before anything is
timed. Within a repeat they alternate. Rates are medians over the repeats; ratios are medians of the
ratios within a repeat. One thread, CPU time of this process.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from attack_speed import closed_form, searched, trained, training_attackers
from attack_speed.bench import Bench, Case
from frontier.records import write_rows
from threadpoolctl import threadpool_limits

from testbed.core.errors import UserError
from testbed.core.process import tune_malloc
from testbed.pages.documents import Block, markdown_table, measured_into

BLOCK = Block("python benchmarks/attack_throughput.py")
TOLERANCE = 2e-2
"""Largest difference of 99 % of the results' elements, in those of the largest value.

Sums are in another order, and where a gradient is all but 0 a step of Adam turns with its sign: a
few elements of an image end far apart, and with every further step of a search more of them do.
"""
SHARE = 0.99


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--auxiliary", type=int, default=300, help="the attacker's own images")
    parser.add_argument("--victims", type=int, default=100)
    parser.add_argument("--size-px", type=int, default=32)
    parser.add_argument("--width", type=int, default=32, help="of the front-end")
    parser.add_argument("--steps", type=int, default=6, help="of searches and alignments")
    parser.add_argument("--epochs", type=int, default=3, help="of the decoder")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("results/attack_throughput"))
    parser.add_argument("--document", type=Path, help="Markdown file that gets the table")
    return parser.parse_args(arguments)


def all_cases(arguments: argparse.Namespace) -> list[Case]:
    """Return the cases of all attacks but the anchors."""
    bench = Bench(arguments.auxiliary, arguments.victims, arguments.size_px, arguments.width)
    return [
        *closed_form.cases(bench),
        *trained.cases(bench, arguments.epochs, arguments.steps),
        *searched.cases(bench, arguments.steps),
        *training_attackers.cases(bench, max(1, arguments.steps // 4)),
    ]


def disagreement(case: Case) -> float:
    """Return the ``SHARE`` quantile of the differences, relative to the largest value."""
    ours, plain = case.ours(), case.plain()
    return float(np.quantile(np.abs(ours - plain), SHARE) / max(np.abs(plain).max(), 1e-12))


def seconds(call: Callable[[], Any]) -> float:
    """Return the CPU seconds of one call."""
    before = time.process_time()
    call()
    return time.process_time() - before


def measure(cases: list[Case], repeats: int) -> list[dict[str, Any]]:
    """Time each attack and its plain loop alternately; return one row per case and repeat.

    Raises
    ------
    UserError : the two results differ, so that their times cannot be compared.
    """
    for case in cases:
        apart = disagreement(case)
        if not apart <= TOLERANCE:
            raise UserError(
                f"{case.attack}, {case.phase}: the plain loop's result is {apart:.3g} of the "
                f"largest value away, more than {TOLERANCE:g}"
            )
    rows = []
    for repeat in range(repeats):
        for case in cases:
            # The second call finds warm caches, so the order alternates.
            order = (case.ours, case.plain) if repeat % 2 == 0 else (case.plain, case.ours)
            took = {call: seconds(call) for call in order}
            rows.append(
                {
                    "attack": case.attack,
                    "phase": case.phase,
                    "repeat": repeat,
                    "ours_images_s": case.images / max(took[case.ours], 1e-9),
                    "plain_images_s": case.images / max(took[case.plain], 1e-9),
                }
            )
        print(f"repeat {repeat + 1} of {repeats}", flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return medians as a Markdown table."""
    lines = []
    for attack, phase in dict.fromkeys((row["attack"], row["phase"]) for row in rows):
        own = [row for row in rows if (row["attack"], row["phase"]) == (attack, phase)]
        ours = median(row["ours_images_s"] for row in own)
        plain = median(row["plain_images_s"] for row in own)
        ratio = median(row["ours_images_s"] / row["plain_images_s"] for row in own)
        names = ", ".join(f"`{name}`" for name in attack.split(", "))
        lines.append([names, phase, f"{ours:,.0f}", f"{plain:,.0f}", f"{ratio:.2f}"])
    return markdown_table(["attack", "part", "images/s", "plain loop, images/s", "ratio"], lines)


def main() -> int:
    """Measure, print the table, and write it into the document."""
    arguments = parse()
    torch.set_num_threads(1)
    tune_malloc()  # as in a run

    def measured() -> tuple[str, bool]:
        with threadpool_limits(1, user_api="blas"):
            rows = measure(all_cases(arguments), arguments.repeats)
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_rows(arguments.out / "attack_throughput.csv", rows)
        text = (
            f"{arguments.auxiliary} auxiliary images and {arguments.victims} victims of "
            f"{arguments.size_px}x{arguments.size_px}, cnn front-end of width {arguments.width} "
            f"cut after block 2, one thread, medians of {arguments.repeats} repeats. Every step of "
            "a training or search counts the images that it works on.\n\n" + table(rows)
        )
        return text, True

    return measured_into(
        arguments.document, BLOCK, measured, [Path(__file__).parent / "attack_speed"]
    )


if __name__ == "__main__":
    sys.exit(main())
