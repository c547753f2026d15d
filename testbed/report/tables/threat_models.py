"""The ladder of threat models: the best attack that can be mounted with what each rung grants.

An attack counts for every rung whose grants contain its own: more grants allow all that fewer do.
Attacks are compared on the victims that both read, never on different ones.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import fsum

from testbed.results.choice import Rule, error_by, rule_of
from testbed.results.findings import FEW_VICTIMS, position_words
from testbed.results.grants import allows
from testbed.results.reading import Results, read_table
from testbed.results.schema import ArmResult, AttackResult, Grants

COLUMNS = ("arm", "adversary", "attack", "request", "mse")
Errors = Mapping[int, float]


@dataclass(frozen=True)
class SharedPosition:
    """A position to read from: adversaries that read the same victims share it."""

    words: str
    adversaries: tuple[str, ...]


@dataclass(frozen=True)
class Rung:
    """A rung of the ladder: what is granted beside the features, and where those are read."""

    words: str
    grants: Grants
    position: SharedPosition


@dataclass(frozen=True)
class Best:
    """The best attack on a rung.

    Attributes
    ----------
    mse : its mean over ``victims``, which it and the rung's own attacks both read.
    read : victims that the rung reads in all.
    own_mse : the mean of the best of its own attacks over the same victims.
    rule : by which error it was chosen among the attacks that can be mounted; None if it is the
        only one.
    """

    attack: AttackResult
    mse: float
    victims: int
    read: int
    own_mse: float
    rule: Rule | None = None


class Ladder:
    """The attacks of a run that rebuild images, with the error on each victim where it is known."""

    def __init__(self, results: Results) -> None:
        self._arms = {arm.name: arm.rebuilding for arm in results.arms}
        self._errors = _errors_of_victims(results)
        self._positions = self._shared_positions()

    def rungs(self) -> list[Rung]:
        """Return all rungs, in order of first appearance."""
        attacks = (attack for own in self._arms.values() for attack in own)
        return list(dict.fromkeys(self._rung(attack) for attack in attacks))

    def best(self, arm: ArmResult, rung: Rung) -> Best | None:
        """Return the best attack on an arm on a rung; None where it read nothing.

        Where validation errors do not choose: on other victims than its own attacks' an attack may
        be better by their ease alone. What counts is how much better it is than the rung's own
        attacks on the same ones.
        """
        attacks = self._arms[arm.name]
        own = [attack for attack in attacks if self._rung(attack) == rung]
        if not own:
            return None
        read = self._of(arm, own[0])
        others = [
            attack
            for attack in attacks
            if self._rung(attack) != rung and self._counts(arm, attack, own[0])
        ]
        total = own[0].victims or len(read)
        found: list[Best] = []
        for attack in (*own, *others):
            shared = read.keys() & self._of(arm, attack).keys()
            if len(shared) < min(FEW_VICTIMS, len(read)):
                continue
            comparable = [item for item in own if shared <= self._of(arm, item).keys()]
            found.append(
                Best(
                    attack=attack,
                    mse=self._mean(arm, attack, shared),
                    victims=total if len(shared) == len(read) else len(shared),
                    read=total,
                    own_mse=min(self._mean(arm, item, shared) for item in comparable),
                )
            )
        # Rounded, so that its own attack, which comes first, is taken where they are equal.
        rule = rule_of([best.attack for best in found])
        if rule == "validation":
            chosen = min(found, key=lambda best: round(error_by(rule, best.attack), 12))
        else:
            chosen = min(found, key=lambda best: round(best.mse - best.own_mse, 12))
        return replace(chosen, rule=rule if len(found) > 1 else None)

    def _counts(self, arm: ArmResult, attack: AttackResult, own: AttackResult) -> bool:
        """Return whether the adversary of ``own`` can also mount ``attack``."""
        granted = allows(own.grants, attack.grants)
        if not attack.learns_from_intercepts:
            return granted
        return granted and self._of(arm, attack).keys() <= self._of(arm, own).keys()

    def _rung(self, attack: AttackResult) -> Rung:
        return Rung(attack.threat_model, attack.grants, self._positions[attack.adversary])

    def _of(self, arm: ArmResult, attack: AttackResult) -> Errors:
        return self._errors.get((arm.name, attack.adversary, attack.attack), {})

    def _mean(self, arm: ArmResult, attack: AttackResult, shared: Iterable[int]) -> float:
        errors, chosen = self._of(arm, attack), list(shared)
        value = attack.mse
        if len(chosen) == len(errors) and value is not None:  # the number of results.json, exactly
            return value
        return fsum(errors[request] for request in chosen) / len(chosen)

    def _shared_positions(self) -> dict[str, SharedPosition]:
        """Return the position of every adversary, shared by those that read the same victims."""
        reads: dict[str, dict[str, frozenset[int]]] = {}
        words: dict[str, str] = {}
        for arm, attacks in self._arms.items():
            for attack in attacks:
                errors = self._errors.get((arm, attack.adversary, attack.attack), {})
                reads.setdefault(attack.adversary, {})[arm] = frozenset(errors)
                words.setdefault(attack.adversary, position_words(attack.position))
        groups: list[list[str]] = []
        for name in reads:
            matching = (
                group
                for group in groups
                if words[group[0]] == words[name] and _read_the_same(reads[group[0]], reads[name])
            )
            group = next(matching, None)
            if group is None:
                groups.append([name])
            else:
                group.append(name)
        positions = [SharedPosition(words[group[0]], tuple(group)) for group in groups]
        return {name: position for position in positions for name in position.adversaries}


def _read_the_same(
    first: Mapping[str, frozenset[int]], second: Mapping[str, frozenset[int]]
) -> bool:
    """Say whether two adversaries read the same victims on every arm that both attack."""
    both = first.keys() & second.keys()
    return bool(both) and all(first[arm] == second[arm] for arm in both)


def _errors_of_victims(results: Results) -> dict[tuple[str, str, str], Errors]:
    """Return the error on each victim, by arm, adversary and attack."""
    rows = read_table(results.path, "attacks")
    errors: dict[tuple[str, str, str], dict[int, float]] = {}
    for *key, request, error in zip(*(rows[name] for name in COLUMNS), strict=True):
        arm, adversary, attack = key
        errors.setdefault((arm, adversary, attack), {})[int(request)] = float(error)
    return dict(errors)
