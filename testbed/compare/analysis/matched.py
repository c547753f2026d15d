"""Defences at matched accuracy: what each family of settings leaks where it is equally useful."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from testbed.compare.analysis.estimates import ArmEstimates
from testbed.compare.analysis.pareto import non_dominated
from testbed.compare.analysis.request_table import Values, interval
from testbed.privacy.intervals import LEVEL, Interval

COMMON_LEVELS = 3
Reached = Literal["between", "more accurate", "not reached"]


@dataclass(frozen=True)
class Place:
    """Where a frontier stands at an accuracy.

    Attributes
    ----------
    mse : None where the family does not reach the accuracy.
    reached : ``between`` two settings (or at one), ``more accurate``: its least accurate setting of
        the frontier is more accurate than asked and stands for it, or ``not reached``.
    settings : places of the one or two settings used, the more accurate one first.
    """

    mse: float | None
    reached: Reached
    settings: tuple[int, ...] = ()


def place_at(accuracy: Values, mse: Values, target: float) -> Place:
    """Interpolate the frontier of a family's settings at an accuracy.

    Answering each request by one of two settings, drawn at random, reaches every point of the
    straight line between them. Nothing is extrapolated.

    Parameters
    ----------
    accuracy, mse : (n,) of the settings; those with an unknown value are left out.
    """
    chosen = np.flatnonzero(non_dominated(np.stack([accuracy, mse], axis=-1)))
    chosen = chosen[np.lexsort((chosen, -accuracy[chosen]))]  # by falling accuracy, rising MSE
    if not len(chosen) or not accuracy[chosen[0]] >= target:  # also where the target is unknown
        return Place(None, "not reached")
    for better, worse in pairwise(chosen):
        if accuracy[worse] < target:
            share = (accuracy[better] - target) / (accuracy[better] - accuracy[worse])
            value = mse[better] + share * (mse[worse] - mse[better])
            exact = share == 0.0
            used = (int(better),) if exact else (int(better), int(worse))
            return Place(float(value), "between", used)
    last = int(chosen[-1])
    equal = accuracy[last] == target
    return Place(float(mse[last]), "between" if equal else "more accurate", (last,))


@dataclass(frozen=True)
class RankedDefence:
    """A family at one accuracy.

    Attributes
    ----------
    settings : labels of the settings used.
    mse : with its interval over the resamples in which the accuracy is reached.
    reached_share : share of such resamples.
    rank : 1 for the highest MSE, None where it does not reach the accuracy.
    rank_shares : share of the resamples in which the family has rank 1, 2, ...
    to_best : its MSE minus that of the family of rank 1, paired, over the resamples in which both
        reach the accuracy; None for the family of rank 1 itself.
    like_best : whether the two are not distinguishable: of the resamples in which the family of
        rank 1 reaches the accuracy, it is ahead in fewer than 97.5 %. Where both always reach it,
        that is an interval of the difference that covers 0.
    """

    family: str
    reached: Reached
    settings: tuple[str, ...]
    mse: Interval
    reached_share: float
    rank: int | None
    rank_shares: tuple[float, ...]
    to_best: Interval | None
    like_best: bool | None


@dataclass(frozen=True)
class Matched:
    """The ranking of the families at one accuracy.

    ``below_reference`` is how far it lies below the reference, None for a fixed accuracy.
    """

    accuracy: float
    below_reference: float | None
    ranked_defences: tuple[RankedDefence, ...]


def families_of(measured: Sequence[ArmEstimates]) -> dict[str, list[int]]:
    """Return the places of the arms of every family."""
    families: dict[str, list[int]] = {}
    for place, item in enumerate(measured):
        families.setdefault(item.arm.family, []).append(place)
    return families


def match(measured: Sequence[ArmEstimates], reference: int, max_loss: float) -> list[Matched]:
    """Rank the families at the reference's accuracy minus ``max_loss`` and at common accuracies."""
    accuracy = np.array([_number(item["accuracy"].shown.value) for item in measured])
    moving = measured[reference]["accuracy"].samples - max_loss
    at = accuracy[reference] - max_loss
    made = [_at(measured, float(at), moving, max_loss)] if np.isfinite(at) else []
    for level in common_accuracies(measured):
        made.append(_at(measured, level, np.full(len(moving), level), None))
    return made


def common_accuracies(measured: Sequence[ArmEstimates]) -> list[float]:
    """Return up to three accuracies, in whole per cent, that at least two families reach.

    From the second-highest of the families' best accuracies evenly down to the median of the
    families' worst, on their frontiers.
    """
    tops, bottoms = [], []
    for places in families_of(measured).values():
        accuracy, mse = _points(measured, places)
        chosen = accuracy[non_dominated(np.stack([accuracy, mse], axis=-1))]
        if len(chosen):
            tops.append(float(chosen.max()))
            bottoms.append(float(chosen.min()))
    if len(tops) < 2:
        return []
    top = sorted(tops)[-2]
    levels = np.linspace(top, min(top, float(np.median(bottoms))), COMMON_LEVELS)
    whole = [np.floor(100.0 * level + 1e-9) / 100.0 for level in levels]
    return [float(level) for level in dict.fromkeys(whole)]


def _at(
    measured: Sequence[ArmEstimates], target: float, targets: Values, below: float | None
) -> Matched:
    families = families_of(measured)
    places = [place_at(*_points(measured, own), target) for own in families.values()]
    samples = np.stack([_resampled(measured, own, targets) for own in families.values()], axis=1)
    reached = [index for index, place in enumerate(places) if place.mse is not None]
    order = sorted(reached, key=lambda index: (-(places[index].mse or 0.0), index))
    ranks = _rank_shares(samples[:, order])
    ranked_defences = []
    for index, (family, own) in enumerate(families.items()):
        place = places[index]
        rank = order.index(index) + 1 if index in order else None
        known = np.isfinite(samples[:, index])
        to_best, like_best = None, None
        if rank is not None and rank > 1:
            best = order[0]
            value = (place.mse or 0.0) - (places[best].mse or 0.0)
            to_best = interval(value, samples[:, index] - samples[:, best], _victims(measured, own))
            like_best = not _tells_apart(samples[:, best], samples[:, index])
        ranked_defences.append(
            RankedDefence(
                family=family,
                reached=place.reached,
                settings=tuple(measured[own[at]].arm.label for at in place.settings),
                mse=interval(
                    place.mse,
                    np.where(known, samples[:, index], np.nan),
                    _victims(measured, own),
                ),
                reached_share=float(known.mean()),
                rank=rank,
                rank_shares=tuple(ranks[rank - 1]) if rank is not None else (),
                to_best=to_best,
                like_best=like_best,
            )
        )
    ranked_defences.sort(key=lambda item: (item.rank is None, item.rank or 0))
    return Matched(target, below, tuple(ranked_defences))


def _tells_apart(best: Values, other: Values) -> bool:
    """Say whether the best family is ahead in at least 97.5 % of the resamples that it reaches."""
    reached = np.isfinite(best)
    behind = np.where(np.isfinite(other[reached]), other[reached], -np.inf)
    return bool(reached.any() and (best[reached] > behind).mean() >= (1.0 + LEVEL) / 2.0)


def _rank_shares(samples: Values) -> list[list[float]]:
    """Return for every family (column) in which share of the resamples it has each rank.

    A family that does not reach the accuracy in a resample comes last in it.
    """
    filled = np.where(np.isfinite(samples), samples, -np.inf)
    order = np.argsort(-filled, axis=1, kind="stable")
    ranks: NDArray[np.int64] = np.argsort(order, axis=1, kind="stable")
    number = samples.shape[1]
    return [
        [float((ranks[:, family] == rank).mean()) for rank in range(number)]
        for family in range(number)
    ]


def _points(measured: Sequence[ArmEstimates], places: Sequence[int]) -> tuple[Values, Values]:
    return (
        np.array([_number(measured[place]["accuracy"].shown.value) for place in places]),
        np.array([_number(measured[place]["mse"].shown.value) for place in places]),
    )


def _resampled(measured: Sequence[ArmEstimates], places: Sequence[int], targets: Values) -> Values:
    """Return the family's MSE at the target of every resample, NaN where it is not reached."""
    accuracy = np.stack([measured[place]["accuracy"].samples for place in places], axis=1)
    mse = np.stack([measured[place]["mse"].samples for place in places], axis=1)
    found = [
        place_at(own_accuracy, own_mse, float(target)).mse
        for own_accuracy, own_mse, target in zip(accuracy, mse, targets, strict=True)
    ]
    return np.array([_number(value) for value in found])


def _victims(measured: Sequence[ArmEstimates], places: Sequence[int]) -> int:
    return max(measured[place]["mse"].shown.n or 0 for place in places)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
