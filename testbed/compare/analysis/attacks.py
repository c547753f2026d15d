"""The attacks on an entry over its seeds, overall and on a part of its victims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.compare.analysis.arms import Entry
from testbed.compare.analysis.request_table import (
    Column,
    RequestTable,
    Resamples,
    Values,
    mean_interval,
)
from testbed.core.errors import UserError
from testbed.results.figures import SCORE_COLUMNS, SCORES
from testbed.results.schema import MEAN_IMAGE, AttackResult, Interval

GROUPED = ("tier", "device_class")
ESTIMATED = [score for score in SCORES if "compare" in score.places]


@dataclass(frozen=True)
class Scored:
    """One attack's scores, a row per victim of all seeds.

    Attributes
    ----------
    facts : the attack as the first seed's ``results.json`` describes it.
    places : (n,) rows of the population.
    scores : (n,) by key.
    groups : (n,) tier and device class of each victim's device.
    stopped : whether its training stopped at its limit of epochs in any seed, short of a plateau.
    """

    facts: AttackResult
    places: NDArray[np.int64]
    scores: Mapping[str, Values]
    groups: Mapping[str, NDArray[Any]]
    stopped: bool = False

    def column(self, name: str, keep: NDArray[np.bool_] | None = None) -> Column:
        """Return a score's column, of some victims only where ``keep`` is given."""
        column = Column(self.places, self.scores[name])
        return column if keep is None else column.only(keep)

    def within(self, by: str, group: str) -> NDArray[np.bool_]:
        """Return which victims belong to a tier or device class."""
        inside: NDArray[np.bool_] = self.groups[by] == group
        return inside


@dataclass(frozen=True)
class Attacked:
    """An attack with its estimates, over some victims."""

    scored: Scored
    scores: Mapping[str, Interval]
    samples: Mapping[str, Values]
    mean_image_mse: float | None

    @property
    def facts(self) -> AttackResult:
        """The attack's description."""
        return self.scored.facts

    @property
    def mse(self) -> float:
        """Mean squared error per element."""
        value = self.scores["mse"].value
        return float("nan") if value is None else value

    @property
    def failed(self) -> bool:
        """Whether it does worse than the mean image: the attack failed, which is not privacy."""
        return self.mean_image_mse is not None and self.mse > self.mean_image_mse


@dataclass(frozen=True)
class Attacks:
    """All attacks on an entry that rebuild images, and the anchors beside them."""

    rebuilding: tuple[Scored, ...]
    anchors: tuple[Scored, ...]
    draws: Resamples
    best: Attacked | None
    by_adversary: Mapping[str, Attacked]

    def best_within(self, by: str, group: str) -> Attacked | None:
        """Return the best attack on the victims of one tier or device class."""
        return self._best(self.rebuilding, (by, group))

    def estimated(self, scored: Scored) -> Attacked:
        """Return one of the attacks or anchors with its estimates over all of its victims."""
        return self._estimate(scored, np.ones(len(scored.places), bool))

    def _best(
        self, candidates: Sequence[Scored], within: tuple[str, str] | None = None
    ) -> Attacked | None:
        """Return the attack with the lowest mean MSE over all seeds, on some victims."""
        means: list[tuple[float, int, Scored, NDArray[np.bool_]]] = []
        for scored in candidates:
            keep = scored.within(*within) if within else np.ones(len(scored.places), bool)
            if keep.any():
                means.append((float(scored.scores["mse"][keep].mean()), len(means), scored, keep))
        if not means:
            return None
        _, _, best, keep = min(means, key=lambda item: item[:2])
        return self._estimate(best, keep, within)

    def _estimate(
        self, scored: Scored, keep: NDArray[np.bool_], within: tuple[str, str] | None = None
    ) -> Attacked:
        columns = {score.key: scored.column(score.key, keep) for score in ESTIMATED}
        samples = {name: self.draws.means(column) for name, column in columns.items()}
        return Attacked(
            scored=scored,
            scores={name: mean_interval(columns[name], samples[name]) for name in columns},
            samples=samples,
            mean_image_mse=self._mean_image(scored.facts.adversary, within),
        )

    def _mean_image(self, adversary: str, within: tuple[str, str] | None) -> float | None:
        for anchor in self.anchors:
            if anchor.facts.adversary == adversary and anchor.facts.attack == MEAN_IMAGE:
                keep = anchor.within(*within) if within else np.ones(len(anchor.places), bool)
                return float(anchor.scores["mse"][keep].mean()) if keep.any() else None
        return None


def attacks_of(entry: Entry, request_table: RequestTable, draws: Resamples) -> Attacks:
    """Collect the attacks that every seed of an entry has, and find each adversary's best."""
    found = [_scored(entry, facts, request_table) for facts in _common(entry)]
    rebuilding = tuple(
        item for item in found if not item.facts.is_anchor and item.facts.rebuilds_images
    )
    anchors = tuple(item for item in found if item.facts.is_anchor)
    empty = Attacks(rebuilding, anchors, draws, None, {})
    by_adversary = {}
    for name in dict.fromkeys(item.facts.adversary for item in rebuilding):
        best = empty._best([item for item in rebuilding if item.facts.adversary == name])
        if best is not None:
            by_adversary[name] = best
    overall = min(by_adversary.values(), key=lambda attacked: attacked.mse, default=None)
    return Attacks(rebuilding, anchors, draws, overall, by_adversary)


def _common(entry: Entry) -> list[AttackResult]:
    """Return the attacks of the first seed that the other seeds have as well."""
    others = [
        {(attack.adversary, attack.attack) for attack in member.arm.attacks}
        for member in entry.members[1:]
    ]
    return [
        attack
        for attack in entry.arm.attacks
        if all((attack.adversary, attack.attack) in names for names in others)
    ]


def _scored(entry: Entry, facts: AttackResult, request_table: RequestTable) -> Scored:
    parts: dict[str, list[Any]] = {"at": [], **{name: [] for name in (*SCORE_COLUMNS, *GROUPED)}}
    for member in entry.members:
        file = member.run.path / "attacks.parquet"
        rows = member.run.attacks.where(
            arm=member.arm.name, adversary=facts.adversary, attack=facts.attack
        )
        what = f"{facts.attack} by {facts.adversary} on '{member.arm.name}'"
        if not len(rows):
            raise UserError(f"{file}: no row of {what}, which results.json lists")
        at = request_table.places(member.run.seed, rows["request"])
        if (at < 0).any():
            raise UserError(f"{file}: {what} names requests that requests.parquet does not have")
        if not np.isfinite(rows["mse"]).all():
            raise UserError(f"{file}: {what} has an MSE that is not a number")
        parts["at"].append(at)
        for name in (*SCORE_COLUMNS, *GROUPED):
            parts[name].append(rows[name])
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    return Scored(
        facts=facts,
        places=joined["at"],
        scores={score.key: score.values(joined) for score in ESTIMATED},
        groups={name: joined[name] for name in GROUPED},
        stopped=any(
            attack.reached_plateau is False
            for member in entry.members
            for attack in member.arm.attacks
            if (attack.adversary, attack.attack) == (facts.adversary, facts.attack)
        ),
    )
