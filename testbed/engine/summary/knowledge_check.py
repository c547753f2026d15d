"""The self-check that more knowledge never does worse.

An attack that starts from another one, or has it among its choices, must not do worse than it where
its adversary is granted at least as much. It decides on the attacker's validation images, and
trains with another seed. So it fails only if its mean error on the victims that both attacked is
higher by more than three standard errors of the paired difference, and by more than a tenth of the
other one's error. Fewer than 20 shared victims are not compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from testbed.adversaries.base import Attack
from testbed.core.registries import ATTACKS
from testbed.results.columns import Record
from testbed.results.findings import FEW_VICTIMS
from testbed.results.grants import allows
from testbed.results.schema import AttackResult
from testbed.scenario.adversary import Adversary

STANDARD_ERRORS = 3.0
SHARE = 0.1
"""Of the other attack's error: two trainings that differ in their seed alone differ by less."""


@dataclass(frozen=True)
class Pair:
    """An attack, and one that it builds on with at most its grants.

    Attributes
    ----------
    own, other : mean errors on the victims of both.
    worse : whether the first exceeds the second by more than the tolerance.
    """

    words: str
    own: float
    other: float
    worse: bool


def more_knowledge(
    adversaries: Sequence[Adversary], entries: Sequence[AttackResult], rows: Sequence[Record]
) -> tuple[bool, str]:
    """Return whether no attack does worse than one that it builds on, and the details.

    Parameters
    ----------
    entries, rows : of the attacks on one arm.
    """
    errors: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        key = row["adversary"], row["attack"]
        errors.setdefault(key, {})[row["request"]] = row["mse"]
    pairs: list[Pair] = []
    few = 0
    for first, second in _building(adversaries, entries):
        own, other = (errors.get((item.adversary, item.attack), {}) for item in (first, second))
        shared = sorted(own.keys() & other.keys())
        if len(shared) < FEW_VICTIMS:
            few += 1
            continue
        words = f"{_words(first)} beside {_words(second)}"
        pairs.append(
            _pair(words, [own[place] for place in shared], [other[place] for place in shared])
        )
    sentences = [f"{len(pairs)} pairs of attacks compared"]
    if few:
        sentences.append(f"{few} not compared: fewer than {FEW_VICTIMS} shared victims")
    failed = [pair for pair in pairs if pair.worse]
    if pairs:
        shown = failed or [max(pairs, key=lambda pair: pair.own / max(pair.other, 1e-12))]
        sentences += [
            f"{pair.words}: MSE {pair.own:.3g} and {pair.other:.3g} on the same victims"
            for pair in shown
        ]
    return not failed, "; ".join(sentences)


def _building(
    adversaries: Sequence[Adversary], entries: Sequence[AttackResult]
) -> Iterator[tuple[AttackResult, AttackResult]]:
    """Yield attacks with attacks that they build on, with the same options and no more grants."""
    mounted: dict[str, Attack] = {
        item.name: ATTACKS.create(item.attack.name, item.attack.options) for item in adversaries
    }
    own = [
        entry
        for entry in entries
        for item in adversaries
        if (item.name, item.attack.name) == (entry.adversary, entry.attack)
    ]
    for first in own:
        builds_on = mounted[first.adversary].builds_on()
        for second in own:
            same = builds_on.get(second.attack) == mounted[second.adversary].options
            if same and first is not second and allows(first.grants, second.grants):
                yield first, second


def _words(entry: AttackResult) -> str:
    return f"{entry.attack} of {entry.adversary}"


def _pair(words: str, own: Sequence[float], other: Sequence[float]) -> Pair:
    difference = np.subtract(own, other)
    noise = float(difference.std(ddof=1)) / np.sqrt(len(difference))
    mean, base = float(np.mean(own)), float(np.mean(other))
    tolerance = max(STANDARD_ERRORS * noise, SHARE * base)
    return Pair(words, mean, base, bool(mean - base > tolerance))
