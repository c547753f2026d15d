"""The findings of a comparison in sentences, worded in ``templates/sentences.html.j2``."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import compress

from testbed.compare.analysis.groups import Groups, relative_leakage
from testbed.compare.analysis.matched import Matched
from testbed.compare.comparison import Comparison
from testbed.pages.html import sentence
from testbed.privacy.intervals import LEVEL

say = partial(sentence, "testbed.compare")


def in_short(comparison: Comparison) -> list[tuple[str, str]]:
    """Return a heading and a sentence each for front, matched accuracy, tiers and classes."""
    labels, front = comparison.labels, comparison.front("accuracy_mse")
    on_front = list(compress(labels, front.on_front))
    parts = [("Pareto front", say("front", on_front, labels))]
    if comparison.matched:
        parts.append(("Matched accuracy", matched_words(comparison.matched[0])))
    for name, groups in (("Tiers", comparison.tiers), ("Device classes", comparison.classes)):
        parts.append((name, _weakest_words(comparison, groups)))
    return [(name, text) for name, text in parts if text]


def matched_words(found: Matched) -> str:
    """Return which family hides most at an accuracy, and which ones it cannot be told from."""
    return say("matched", found, LEVEL)


def _weakest_words(comparison: Comparison, groups: Sequence[Groups]) -> str:
    weakest = [item.weakest for item in groups if item.weakest]
    if not weakest:
        return ""
    counted = Counter(score.group for score in weakest)
    name = min(counted, key=lambda group: (-counted[group], group))
    clear = sum(
        score.group == name and score.to_mean.high is not None and score.to_mean.high < 0.0
        for score in weakest
    )
    relative = relative_leakage(groups, comparison.measured).get(name)
    return say("weakest", name, counted[name], len(weakest), clear, relative)
