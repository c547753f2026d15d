"""Findings that all outputs share: the best attack, its anchors, bounds and leakiest tier."""

from collections.abc import Sequence
from dataclasses import dataclass

from testbed.privacy.intervals import Interval
from testbed.results.choice import best_of
from testbed.results.figures import shown_in
from testbed.results.schema import (
    ArmResult,
    AttackOnTier,
    AttackResult,
    ErrorBound,
    Scores,
    Summary,
    TierResult,
)

Value = str | float | int | None
FEW_VICTIMS = 20
"""Below this many victims, an interval is too wide and too rough to compare arms."""

SAME_ANCHOR = 0.05
"""Anchors of arms that differ by less than this share have one line in the figures."""

CLOUD_POSITION = "at the cloud, which receives every device's features"


def adversaries(summary: Summary) -> list[str]:
    """Return the adversaries in order of first appearance."""
    names = [attack.adversary for arm in summary.arms for attack in arm.attacks]
    return list(dict.fromkeys(names))


def best_by_tier(arm: ArmResult) -> list[tuple[TierResult, AttackOnTier | None]]:
    """Return every tier with the scores of the best attack on its victims."""

    def best(tier: TierResult) -> AttackOnTier | None:
        scored = {
            place: entry
            for place, attack in enumerate(arm.rebuilding)
            for entry in attack.by_tier
            if entry.tier == tier.tier and entry.mse.value is not None
        }
        attacks = {
            place: arm.rebuilding[place].model_copy(
                update={"validation_mse": entry.validation_mse, "scores": Scores(mse=entry.mse)}
            )
            for place, entry in scored.items()
        }
        chosen = best_of(list(attacks.values()))
        return next((scored[place] for place, item in attacks.items() if item is chosen), None)

    return [(tier, best(tier)) for tier in arm.tiers]


def leakiest(arm: ArmResult) -> tuple[TierResult, AttackOnTier] | None:
    """Return the tier whose victims are reconstructed best; None for fewer than two tiers."""
    scored = [(tier, best) for tier, best in best_by_tier(arm) if best is not None]
    if len(arm.tiers) < 2:
        return None
    return min(scored, key=lambda pair: _tier_mse(pair[1]), default=None)


def _tier_mse(entry: AttackOnTier) -> float:
    return entry.mse.value or 0.0


def accuracy(arm: ArmResult | None) -> Interval:
    """Return an arm's test accuracy; without a value where it was not evaluated."""
    return (arm.accuracy.test if arm else None) or Interval()


def anchors(arm: ArmResult, adversary: str) -> list[AttackResult]:
    """Return the anchors (mean image, class mean) scored on the victims of ``adversary``."""
    return [a for a in arm.attacks if a.is_anchor and a.adversary == adversary]


def weakest_bound(arm: ArmResult) -> ErrorBound | None:
    """Return the error bound of the tier with the weakest guarantee, or None without tiers.

    A tier's guarantee is for the most releases that any adversary averages.
    """
    return min(arm.error_bounds, key=_lowest, default=None)


def bound_for(arm: ArmResult, replays: int) -> float | None:
    """Return the weakest error bound of all tiers on the MSE for means over ``replays`` releases.

    Between two computed numbers of releases, the bound of the larger one holds; None without any.
    """

    def guaranteed(bound: ErrorBound) -> float:
        covering = [item.mse or 0.0 for item in bound.levels if (item.replays or 1) >= replays]
        return 0.0 if bound.reason else max(covering, default=0.0)

    return min((guaranteed(bound) for bound in arm.error_bounds), default=None)


def _lowest(bound: ErrorBound) -> float:
    if bound.reason:
        return 0.0
    return min((level.mse or 0.0 for level in bound.levels), default=0.0)


def identifies_more(arm: ArmResult, best: AttackResult) -> AttackResult | None:
    """Return an attack that re-identifies more victims than the best one by MSE."""

    def rate(attack: AttackResult) -> float:
        return attack.scores["reidentification"].value or 0.0

    top = max(arm.rebuilding, key=rate, default=best)
    return top if rate(top) > rate(best) else None


@dataclass(frozen=True)
class AnchorLine:
    """An anchor's MSE, averaged; ``arm`` is its index where the anchor depends on the arm.

    The mean image is the same for every arm, so that arms differ by their answered requests
    only; the class mean follows the answers that an arm gave, right or wrong.
    """

    name: str
    at: float
    arm: int | None


def anchor_lines(summary: Summary, adversary: str | None = None) -> list[AnchorLine]:
    """Return every anchor's mean MSE over adversaries (or of one), per arm where arms differ."""
    values: dict[str, dict[int, list[float]]] = {}
    for index, arm in enumerate(summary.arms):
        for attack in arm.attacks:
            value = attack.mse
            if attack.is_anchor and adversary in (None, attack.adversary) and value is not None:
                values.setdefault(attack.attack, {}).setdefault(index, []).append(value)
    lines = []
    for name, by_arm in values.items():
        means = {index: sum(found) / len(found) for index, found in by_arm.items()}
        low, high = min(means.values()), max(means.values())
        if high - low > SAME_ANCHOR * high:
            lines += [AnchorLine(name, value, index) for index, value in means.items()]
        else:
            lines.append(AnchorLine(name, sum(means.values()) / len(means), None))
    return lines


def readable(name: str) -> str:
    """Return a registry name as words: ``mean_image`` becomes ``mean image``."""
    return name.replace("_", " ")


def position_words(position: str) -> str:
    """Return a position as part of a sentence."""
    return CLOUD_POSITION if position == "cloud" else position


def arm_figures(arms: Sequence[ArmResult]) -> list[dict[str, Value]]:
    """Return the headline figures of every arm as one row of columns; None where unknown.

    Shares are between 0 and 1. Privacy figures are those of the best attack of all adversaries;
    costs are per request, counts of training are device-rounds.
    """
    return [_row(arm) for arm in arms]


def _row(arm: ArmResult) -> dict[str, Value]:
    row: dict[str, Value] = {"arm": arm.name, "front_end": arm.front_end, "defence": arm.defence}
    for figure in shown_in("index"):
        if figure.key == "mse":  # the scores begin with it
            row["best_attack"] = arm.best.attack if arm.best else None
            row["best_adversary"] = arm.best.adversary if arm.best else None
        value = figure.of(arm)
        row[figure.index_key] = value.value if isinstance(value, Interval) else value
        if figure.interval:
            row[f"{figure.index_key}_low"] = value.low if value else None
            row[f"{figure.index_key}_high"] = value.high if value else None
    return row
