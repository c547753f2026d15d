"""Which of several attacks is the best one.

The attack is chosen by its error on the attackers' validation images where all candidates state it
and hold the same auxiliary images: then the victims' errors have no part in the choice. Else the
one with the lowest error on the victims is taken. That error is a minimum, so its interval must
cover the choice.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar

Rule = Literal["validation", "victims"]
WORDS: dict[Rule, str] = {
    "validation": "chosen on the attacker's validation images",
    "victims": "the lowest error on the victims",
}


class _Images(Protocol):
    """Whose images an attacker holds."""

    @property
    def auxiliary_data(self) -> str | None: ...
    @property
    def auxiliary_classes(self) -> str: ...
    @property
    def auxiliary_images(self) -> int: ...


class Candidate(Protocol):
    """What the choice reads of an attack."""

    @property
    def mse(self) -> float | None:
        """Mean squared error on the victims."""

    @property
    def validation_mse(self) -> float | None:
        """Mean squared error on the attacker's validation images."""

    @property
    def grants(self) -> _Images:
        """What it used."""


C = TypeVar("C", bound=Candidate)


def rule_of(candidates: Sequence[Candidate]) -> Rule:
    """Return by which error the best of these attacks is chosen."""
    held = {
        (grants.auxiliary_data, grants.auxiliary_classes, grants.auxiliary_images)
        for grants in (attack.grants for attack in candidates)
    }
    known = all(attack.validation_mse is not None for attack in candidates)
    return "validation" if known and len(held) == 1 else "victims"


def error_by(rule: Rule, attack: Candidate) -> float:
    """Return the error of an attack that the rule compares."""
    return (attack.validation_mse if rule == "validation" else attack.mse) or 0.0


def best_of(candidates: Sequence[C]) -> C | None:
    """Return the best of these attacks."""
    rule = rule_of(candidates)
    return min(candidates, key=lambda attack: error_by(rule, attack), default=None)
