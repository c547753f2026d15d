"""The attacks on an arm over its seeds, overall and on a part of its victims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.compare.analysis.arms import ComparedArm
from testbed.compare.analysis.request_table import (
    Column,
    RequestTable,
    Resamples,
    Values,
)
from testbed.core.errors import UserError
from testbed.privacy.intervals import Interval
from testbed.results.choice import Rule, rule_of
from testbed.results.figures import SCORE_COLUMNS, SCORES
from testbed.results.schema import MEAN_IMAGE, AttackResult, Scores

Group = tuple[str, str]
"""A tier or a device class: the column of attacks.parquet and its value."""
GROUPED = ("tier", "device_class")
ESTIMATED = [score for score in SCORES if "compare" in score.places]


@dataclass(frozen=True)
class Scored:
    """One attack's scores, a row per victim of all seeds.

    Attributes
    ----------
    facts : the attack as the first seed's ``results.json`` describes it.
    places : (n,) rows of the table of requests.
    scores : (n,) by key.
    groups : (n,) tier and device class of each victim's device.
    validation_mse : its error on the attacker's validation images, the mean over seeds; None where
        a seed has none.
    stopped : whether its training stopped at its limit of epochs in any seed, short of a plateau.
    """

    facts: AttackResult
    places: NDArray[np.int64]
    scores: Mapping[str, Values]
    groups: Mapping[str, NDArray[Any]]
    stopped: bool = False
    validation_mse: float | None = None

    @property
    def candidate(self) -> AttackResult:
        """The attack with its errors over all seeds, to be chosen among others."""
        mse = Interval(value=float(self.scores["mse"].mean()))
        return self.facts.model_copy(
            update={"validation_mse": self.validation_mse, "scores": Scores(mse=mse)}
        )

    def column(self, key: str, group: Group | None = None) -> Column:
        """Return a score's column over all victims, or over those of a group."""
        column = Column(self.places, self.scores[key])
        return column if group is None else column.only(self.groups[group[0]] == group[1])


@dataclass(frozen=True)
class Attacked:
    """An attack with its estimates, over some victims.

    Attributes
    ----------
    rule : by which error it was chosen, if it was.
    """

    scored: Scored
    scores: Mapping[str, Interval]
    samples: Mapping[str, Values]
    mean_image_mse: float | None
    rule: Rule | None = None

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
    """All attacks on an arm that rebuild images, and the anchors beside them."""

    rebuilding: tuple[Scored, ...]
    anchors: tuple[Scored, ...]
    draws: Resamples
    best: Attacked | None
    by_adversary: Mapping[str, Attacked]

    def best_within(self, by: str, group: str) -> Attacked | None:
        """Return the best attack on the victims of one tier or device class."""
        return self._best(self.rebuilding, (by, group))

    def estimated(self, scored: Scored, group: Group | None = None) -> Attacked:
        """Return an attack or anchor with its estimates over its victims, or over a group."""
        estimates = {
            score.key: self.draws.mean(
                scored.column(score.key, group), "share" if score.is_share else "mean"
            )
            for score in ESTIMATED
        }
        return Attacked(
            scored=scored,
            scores={key: estimate.shown for key, estimate in estimates.items()},
            samples={key: estimate.samples for key, estimate in estimates.items()},
            mean_image_mse=self._mean_image_mse(scored.facts.adversary, group),
        )

    def _best(self, candidates: Sequence[Scored], group: Group | None = None) -> Attacked | None:
        """Return the best attack over all seeds, on some victims.

        Where the lowest error on the victims chooses, its interval covers the choice.
        """
        columns = [(scored.column("mse", group), scored) for scored in candidates]
        columns = [(column, scored) for column, scored in columns if len(column)]
        if not columns:
            return None
        rule = rule_of([scored.candidate for _, scored in columns])
        if rule == "validation":
            _, scored = min(columns, key=lambda pair: pair[1].validation_mse or 0.0)
            return replace(self.estimated(scored, group), rule=rule)
        _, scored = min(columns, key=lambda pair: float(pair[0].values.mean()))
        best = self.estimated(scored, group)
        shown = self.draws.least(best.scores["mse"], [column for column, _ in columns])
        return replace(best, scores={**best.scores, "mse": shown}, rule=rule)

    def _mean_image_mse(self, adversary: str, group: Group | None) -> float | None:
        for anchor in self.anchors:
            if anchor.facts.adversary == adversary and anchor.facts.attack == MEAN_IMAGE:
                errors = anchor.column("mse", group).values
                return float(errors.mean()) if len(errors) else None
        return None


def attacks_of(arm: ComparedArm, request_table: RequestTable, draws: Resamples) -> Attacks:
    """Collect the attacks that every seed of an arm has, and find each adversary's best."""
    scored = [_scored(arm, facts, request_table) for facts in _common(arm)]
    rebuilding = tuple(
        item for item in scored if not item.facts.is_anchor and item.facts.rebuilds_images
    )
    anchors = tuple(item for item in scored if item.facts.is_anchor)
    empty = Attacks(rebuilding, anchors, draws, None, {})
    by_adversary = {}
    for name in dict.fromkeys(item.facts.adversary for item in rebuilding):
        best = empty._best([item for item in rebuilding if item.facts.adversary == name])
        if best is not None:
            by_adversary[name] = best
    overall = empty._best(rebuilding)
    return Attacks(rebuilding, anchors, draws, overall, by_adversary)


def _common(arm: ComparedArm) -> list[AttackResult]:
    """Return the attacks of the first seed that the other seeds have as well."""
    others = [
        {(attack.adversary, attack.attack) for attack in member.arm.attacks}
        for member in arm.members[1:]
    ]
    return [
        attack
        for attack in arm.first.attacks
        if all((attack.adversary, attack.attack) in names for names in others)
    ]


def _scored(arm: ComparedArm, facts: AttackResult, request_table: RequestTable) -> Scored:
    parts: dict[str, list[Any]] = {"at": [], **{name: [] for name in (*SCORE_COLUMNS, *GROUPED)}}
    for member in arm.members:
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
            for member in arm.members
            for attack in member.arm.attacks
            if (attack.adversary, attack.attack) == (facts.adversary, facts.attack)
        ),
        validation_mse=_validation_mse(arm, facts),
    )


def _validation_mse(arm: ComparedArm, facts: AttackResult) -> float | None:
    errors = [
        attack.validation_mse
        for member in arm.members
        for attack in member.arm.attacks
        if (attack.adversary, attack.attack) == (facts.adversary, facts.attack)
    ]
    known = [error for error in errors if error is not None]
    return float(np.mean(known)) if known and len(known) == len(errors) else None
