"""Measures how often 95 % intervals cover the truth, beside the plain percentile bootstrap.

    python benchmarks/interval_coverage.py --document docs/results.md

Data are drawn from laws whose mean is known, again and again; coverage is the share of draws whose
interval contains that mean. 95 % is right, less is too narrow.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from testbed.core.seeds import generator
from testbed.pages.documents import Block, markdown_table, measured_into
from testbed.privacy.intervals import (
    TAILS,
    Interval,
    Values,
    mean_interval,
    share_difference_interval,
    share_interval,
)

BLOCK = Block("python benchmarks/interval_coverage.py")
SEED = 0
RESAMPLES = 400
VICTIMS = (20, 77, 264)
SEEDS = (3, 5, 10)

Draw = Callable[[np.random.Generator], tuple[Values, Values]]
Make = Callable[[Values, Values, int], Interval]


@dataclass(frozen=True)
class Case:
    """A law with a known mean, and the interval that is used for it.

    Attributes
    ----------
    draw : returns values and the cluster of each.
    make : returns the interval of values, clusters and the number of the draw.
    """

    name: str
    truth: float
    draw: Draw
    make: Make


def all_cases() -> list[Case]:
    """Return shares, differences of shares, skewed means, and means over seeds."""
    cases = [_share(count, p) for p in (0.02, 0.5, 1.0) for count in VICTIMS]
    cases += [_clustered_share(count) for count in VICTIMS[1:]]
    cases += [_share_difference(count) for count in VICTIMS]
    cases += [_skewed(count, spread) for spread in (0.5, 1.0) for count in VICTIMS]
    return cases + [_hierarchical(count) for count in SEEDS]


def _share(count: int, p: float) -> Case:
    def draw(rng: np.random.Generator) -> tuple[Values, Values]:
        return (rng.random(count) < p).astype(np.float64), np.arange(float(count))

    name = f"share of {100 * p:g} % of {count} victims"
    return Case(name, p, draw, lambda values, clusters, _: share_interval(values, clusters))


def _clustered_share(count: int) -> Case:
    def draw(rng: np.random.Generator) -> tuple[Values, Values]:
        persons = np.repeat(np.arange(float(count)), 5)
        likely = rng.beta(4.5, 0.5, count)
        return (rng.random(5 * count) < np.repeat(likely, 5)).astype(np.float64), persons

    name = f"share of 90 % of 5 images of each of {count} persons"
    return Case(name, 0.9, draw, lambda values, clusters, _: share_interval(values, clusters))


def _share_difference(count: int) -> Case:
    def draw(rng: np.random.Generator) -> tuple[Values, Values]:
        first = rng.random(count) < 0.95
        second = np.where(rng.random(count) < 0.9, first, rng.random(count) < 0.75)
        return second.astype(np.float64) - first, np.arange(float(count))

    name = f"paired difference of shares, 95 % and 93 % of {count} victims"
    truth = 0.1 * (0.75 - 0.95)
    return Case(name, truth, draw, lambda values, _, __: share_difference_interval(values))


def _skewed(count: int, spread: float) -> Case:
    def draw(rng: np.random.Generator) -> tuple[Values, Values]:
        return rng.lognormal(-(spread**2) / 2.0, spread, count), np.arange(float(count))

    name = f"mean of {count} lognormal errors, deviation of the logarithm {spread:g}"
    return Case(name, 1.0, draw, _mean)


def _hierarchical(count: int) -> Case:
    """Seeds with levels of their own, 10 devices in each, 8 images of each device."""

    def draw(rng: np.random.Generator) -> tuple[Values, Values]:
        levels = rng.normal(0.0, 0.3, (count, 1, 1)) + rng.normal(0.0, 0.3, (count, 10, 1))
        errors = rng.lognormal(-0.125, 0.5, (count, 10, 8))
        return (errors + levels).ravel(), np.repeat(np.arange(float(count)), 80)

    return Case(f"mean over {count} seeds with 10 devices and 80 images each", 1.0, draw, _mean)


def _mean(values: Values, clusters: Values, number: int) -> Interval:
    return mean_interval(values, RESAMPLES, number, clusters=clusters)


def _percentile(values: Values, clusters: Values, rng: np.random.Generator) -> tuple[float, float]:
    """Return the percentile interval of resampled clusters, each resampled inside in turn."""
    groups = values.reshape(len(np.unique(clusters)), -1)
    drawn = groups[rng.integers(0, len(groups), (RESAMPLES, len(groups)))]
    if groups.shape[1] > 1:
        picks = rng.integers(0, groups.shape[1], drawn.shape)
        drawn = np.take_along_axis(drawn, picks, axis=2)
    low, high = np.quantile(drawn.mean(axis=(1, 2)), TAILS)
    return float(low), float(high)


def coverage(case: Case, draws: int) -> tuple[float, float]:
    """Return how often the interval and the percentile bootstrap cover the truth."""
    covered = plain = 0
    for number in range(draws):
        rng = generator(SEED, f"coverage {case.name}", number)
        values, clusters = case.draw(rng)
        found = case.make(values, clusters, number)
        assert found.low is not None
        assert found.high is not None
        covered += found.low - 1e-12 <= case.truth <= found.high + 1e-12
        low, high = _percentile(values, clusters, rng)
        plain += low - 1e-12 <= case.truth <= high + 1e-12
    return covered / draws, plain / draws


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--draws", type=int, default=1000, help="data sets of every law")
    parser.add_argument("--document", type=Path, help="Markdown file that gets the table")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the table."""
    options = parse(arguments)

    def measure() -> tuple[str, bool]:
        rows = []
        for case in all_cases():
            found, plain = coverage(case, options.draws)
            rows.append((case.name, f"{100 * found:.1f} %", f"{100 * plain:.1f} %"))
        table = markdown_table(("95 % interval of a", "coverage", "percentile bootstrap"), rows)
        return (
            f"Over {options.draws:,} data sets of each law, {RESAMPLES} resamples.\n\n{table}",
            True,
        )

    inputs = [Path("benchmarks/interval_coverage.py"), Path("testbed/privacy/intervals.py")]
    return measured_into(options.document, BLOCK, measure, inputs, [SEED])


if __name__ == "__main__":
    sys.exit(main())
