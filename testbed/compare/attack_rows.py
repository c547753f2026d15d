"""Every attack of every adversary on every arm, one row per attack.

Each row covers the victims that its adversary reads; an anchor's row covers those of the adversary
that reads most. Attacks that infer classes or persons have rows of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from testbed.compare.analysis.arms import ComparedArm
from testbed.compare.analysis.attacks import Attacked, Scored
from testbed.compare.analysis.estimates import ArmEstimates
from testbed.compare.comparison import Comparison
from testbed.privacy.intervals import Interval, share_interval
from testbed.results.schema import AttackResult

Key = tuple[str, str]


@dataclass(frozen=True)
class AttackRow:
    """One attack that reconstructs images, or an anchor.

    Attributes
    ----------
    facts : the attack as the first arm that has it describes it.
    cells : its scores on each arm, None on arms without it.
    """

    facts: AttackResult
    cells: Sequence[Attacked | None]

    @property
    def victims(self) -> list[int]:
        """Victims over all seeds, on the arms that have the attack."""
        return [len(cell.scored.places) for cell in self.cells if cell is not None]


@dataclass(frozen=True)
class Inference:
    """The classes and persons that an attack inferred, and chance; None where it infers none."""

    right_class: Interval | None
    majority_class: float | None
    same_person: Interval | None
    chance_same_person: float | None
    victims: int


@dataclass(frozen=True)
class InferenceRow:
    """One attack that reconstructs no image, on each arm."""

    facts: AttackResult
    cells: Sequence[Inference | None]

    @property
    def victims(self) -> list[int]:
        """Victims over all seeds, on the arms that have the attack."""
        return [cell.victims for cell in self.cells if cell is not None]


def anchor_rows(comparison: Comparison) -> list[AttackRow]:
    """Return one row per anchor, of the adversary that reads most victims."""

    def of(item: ArmEstimates) -> dict[Key, Scored]:
        found: dict[Key, Scored] = {}
        for scored in item.attacks.anchors:
            key = ("", scored.facts.attack)
            if key not in found or len(scored.places) > len(found[key].places):
                found[key] = scored
        return found

    return _rows(comparison, of)


def attack_rows(comparison: Comparison) -> list[AttackRow]:
    """Return one row per adversary and attack that reconstructs images, in order."""
    return _rows(
        comparison,
        lambda item: {_key(scored.facts): scored for scored in item.attacks.rebuilding},
    )


def _rows(
    comparison: Comparison, of: Callable[[ArmEstimates], dict[Key, Scored]]
) -> list[AttackRow]:
    tables = [of(item) for item in comparison.measured]
    rows = []
    for key in dict.fromkeys(key for table in tables for key in table):
        cells = [
            item.attacks.estimated(table[key]) if key in table else None
            for item, table in zip(comparison.measured, tables, strict=True)
        ]
        rows.append(AttackRow(next(cell.facts for cell in cells if cell is not None), cells))
    return rows


def inference_rows(comparison: Comparison) -> list[InferenceRow]:
    """Return one row per adversary and attack that reconstructs no image.

    ``results.json`` holds one share per run. Over several seeds, its victims belong together by
    seed; the interval of one seed is the run's own.
    """
    tables = [_inferring(item.arm) for item in comparison.measured]
    rows = []
    for key in dict.fromkeys(key for table in tables for key in table):
        cells = [_inference(table[key]) if key in table else None for table in tables]
        rows.append(InferenceRow(next(table[key][0] for table in tables if key in table), cells))
    return rows


def _key(attack: AttackResult) -> Key:
    return attack.adversary, attack.attack


def _inferring(arm: ComparedArm) -> dict[Key, list[AttackResult]]:
    """Return the attacks that infer classes or persons and that every seed has, by seed."""
    tables = [
        {_key(attack): attack for attack in member.arm.attacks if attack.inferred is not None}
        for member in arm.members
    ]
    return {
        key: [table[key] for table in tables]
        for key in tables[0]
        if all(key in table for table in tables)
    }


def _inference(found: list[AttackResult]) -> Inference:
    inferred = [attack.inferred for attack in found if attack.inferred is not None]
    return Inference(
        right_class=_share([one.class_ for one in inferred]),
        majority_class=_mean([one.majority_class for one in inferred]),
        same_person=_share([one.same_person for one in inferred]),
        chance_same_person=_mean([one.chance_same_person for one in inferred]),
        victims=sum(attack.victims or 0 for attack in found),
    )


def _share(shares: Sequence[Interval | None]) -> Interval | None:
    """Return the share over all victims of the seeds, or the only seed's own interval."""
    known = [share for share in shares if share is not None and share.value is not None]
    if len(known) < 2:
        return known[0] if known else None
    hits = [np.arange(share.n) < round((share.value or 0.0) * share.n) for share in known]
    seeds = np.repeat(np.arange(len(known)), [len(part) for part in hits])
    return share_interval(np.concatenate(hits), seeds, len(seeds))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
