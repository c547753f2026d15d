"""Which devices leak most: the best attack on every tier and on every device class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from testbed.compare.analysis.attacks import Attacked
from testbed.compare.analysis.estimates import ArmEstimates
from testbed.compare.analysis.request_table import Values, interval
from testbed.privacy.intervals import Interval

TIER, CLASS = "tier", "device_class"


@dataclass(frozen=True)
class GroupScore:
    """The best attack on one group of an arm's devices.

    Attributes
    ----------
    to_mean : its MSE minus that of the best attack on all devices, paired.
    weakest_share : share of the resamples in which this group is the one that leaks most.
    """

    group: str
    attacked: Attacked
    victims: int
    to_mean: Interval
    weakest_share: float


@dataclass(frozen=True)
class Groups:
    """An arm's groups in a fixed order, and the one that leaks most."""

    by: str
    label: str
    scores: tuple[GroupScore, ...]

    @property
    def weakest(self) -> GroupScore | None:
        """The group whose victims are reconstructed with the lowest MSE; None for one group."""
        if len(self.scores) < 2:
            return None
        return min(self.scores, key=lambda score: score.attacked.mse)

    def score(self, group: str) -> GroupScore | None:
        """Return a group's score, None where it has no victim."""
        return next((score for score in self.scores if score.group == group), None)


def groups_of(measured: Sequence[ArmEstimates], by: str) -> list[Groups]:
    """Score every tier (or device class) of every arm by the best attack on it."""
    return [_scores(item, by) for item in measured]


def group_names(groups: Sequence[Groups]) -> list[str]:
    """Return the names of all groups, in the order of their first appearance."""
    return list(dict.fromkeys(score.group for item in groups for score in item.scores))


def relative_leakage(
    groups: Sequence[Groups], measured: Sequence[ArmEstimates]
) -> dict[str, float]:
    """Return by group the mean over arms of its MSE divided by the arm's.

    Below 1 the group leaks more than the devices of its arms do on average.
    """
    ratios: dict[str, list[float]] = {}
    for item, found in zip(measured, groups, strict=True):
        overall = item["mse"].shown.value
        if overall and len(found.scores) > 1:
            for score in found.scores:
                ratios.setdefault(score.group, []).append(score.attacked.mse / overall)
    return {name: float(np.mean(values)) for name, values in ratios.items()}


def _scores(item: ArmEstimates, by: str) -> Groups:
    names = sorted({str(name) for scored in item.attacks.rebuilding for name in scored.groups[by]})
    found = [(name, item.attacks.best_within(by, name)) for name in names]
    known = [(name, attacked) for name, attacked in found if attacked is not None]
    shares = _weakest_shares([attacked.samples["mse"] for _, attacked in known])
    overall = item["mse"]
    scores = []
    for (name, attacked), share in zip(known, shares, strict=True):
        victims = attacked.scores["mse"].n or 0
        to_mean = interval(
            attacked.mse - (overall.shown.value or 0.0),
            attacked.samples["mse"] - overall.samples,
            victims,
        )
        scores.append(GroupScore(name, attacked, victims, to_mean, share))
    return Groups(by, item.arm.label, tuple(scores))


def _weakest_shares(samples: Sequence[Values]) -> list[float]:
    """Return in which share of the resamples each group has the lowest MSE."""
    if not samples:
        return []
    stacked = np.stack(samples, axis=1)
    lowest = np.argmin(np.where(np.isfinite(stacked), stacked, np.inf), axis=1)
    return [float((lowest == index).mean()) for index in range(stacked.shape[1])]
