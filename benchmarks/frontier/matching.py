"""Comparison at matched accuracy: what the other defences reach where one defence stands."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

Point = tuple[float, float]


def average_seeds(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per arm and budget: means over seeds, with ``seeds`` and ``mse_spread``.

    Numbers are averaged where every seed has them; other values are taken from the first seed.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["arm"], row["images"], row["epochs"]].append(row)
    averaged = []
    for own in groups.values():
        first = dict(own[0])
        for name, value in own[0].items():
            if isinstance(value, float | int) and not isinstance(value, bool):
                values = [row.get(name) for row in own]
                if len(set(values)) > 1 and all(isinstance(v, float | int) for v in values):
                    first[name] = fmean(values)  # type: ignore[arg-type]
        errors = [row["best_mse"] for row in own]
        first["seeds"] = len(own)
        first["mse_spread"] = stdev(errors) if len(own) > 1 else None
        averaged.append(first)
    return averaged


def upper_hull(points: Sequence[Point]) -> list[Point]:
    """Return the corners of the upper concave hull of (accuracy, MSE), by falling accuracy.

    Answering each request by one of two arms, drawn at random, gives every point of the line
    between them, so the other arms reach everything below the hull. The MSE of the corners rises
    as accuracy falls: a point that is worse in both is no corner.
    """
    hull: list[Point] = []
    for point in sorted(points, key=lambda each: (-each[0], -each[1])):
        if hull and point[1] <= hull[-1][1]:
            continue
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-2], point):
            hull.pop()
        hull.append(point)
    return hull


def _gain(start: Point, end: Point) -> float:
    """MSE gained per accuracy given up."""
    return (end[1] - start[1]) / max(start[0] - end[0], 1e-12)


def reached(points: Sequence[Point], accuracy: float) -> float | None:
    """Return the largest MSE that these arms reach at ``accuracy`` or better, None if none does."""
    hull = upper_hull(points)
    if not hull or hull[0][0] < accuracy:
        return None
    for better, worse in itertools.pairwise(hull):
        if worse[0] < accuracy:
            share = (better[0] - accuracy) / (better[0] - worse[0])
            return better[1] + share * (worse[1] - better[1])
    return hull[-1][1]
