"""Attack cards: the threat model, cost, training and reconstructions of each attack."""

from collections.abc import Sequence
from dataclasses import dataclass

from testbed.pages.html import data_uri
from testbed.report.image_rows import pairs, png
from testbed.results.host_facts import AttackCost
from testbed.results.reading import Results
from testbed.results.schema import AttackResult

SPARK_WIDTH, SPARK_HEIGHT = 180, 44


@dataclass(frozen=True)
class Card:
    """One attack of one adversary on one arm; ``cards.html.j2`` words it.

    Attributes
    ----------
    cost : of the attack on the machine that ran it, None where it was not measured.
    curve : points of its validation error over epochs, for an SVG polyline; empty without.
    amounts : points of its error by the share of what it learned from; empty without.
    picture : best, median and worst victim above their reconstructions, as a data URI; or empty.
    """

    arm: str
    arm_index: int
    attack: AttackResult
    cost: AttackCost | None
    curve: list[str]
    amounts: list[str]
    picture: str


def cards(results: Results) -> list[tuple[str, list[Card]]]:
    """Return the cards of every adversary, anchors left out, arms side by side."""
    by_adversary: dict[str, list[Card]] = {}
    for index, arm in enumerate(results.arms):
        for attack in arm.attacks:
            if attack.is_anchor:
                continue
            key = (arm.name, attack.adversary, attack.attack)
            images = results.samples.get("/".join(("extremes", *key)))
            picture = "" if images is None else data_uri(png(pairs(images)))
            card = Card(
                *(arm.name, index, attack, results.cost_of(arm.name, attack)),
                *(_curve(attack), _amounts(attack), picture),
            )
            by_adversary.setdefault(attack.adversary, []).append(card)
    return list(by_adversary.items())


def _curve(attack: AttackResult) -> list[str]:
    errors = [
        point.validation_mse for point in attack.training_curve if point.validation_mse is not None
    ]
    return _polyline([(i / max(1, len(errors) - 1), error) for i, error in enumerate(errors)])


def _amounts(attack: AttackResult) -> list[str]:
    return _polyline(
        [
            (point.share, point.mse.value)
            for point in (attack.by_amount.points if attack.by_amount else [])
            if point.share is not None and point.mse is not None and point.mse.value is not None
        ]
    )


def _polyline(points: Sequence[tuple[float, float]]) -> list[str]:
    """Return (share of the width, error) as points of an SVG polyline, error 0 at the bottom."""
    top = max((error for _, error in points), default=0.0)
    if len(points) < 2 or top <= 0.0:
        return []
    return [
        f"{SPARK_WIDTH * share:.1f},{SPARK_HEIGHT * (1.0 - error / top):.1f}"
        for share, error in points
    ]
