"""What the comparison says in sentences, made of its numbers."""

from collections import Counter

from testbed.compare.analysis.groups import Groups, group_names, relative_leakage
from testbed.compare.analysis.matched import Matched
from testbed.compare.comparison import Comparison
from testbed.privacy.intervals import LEVEL
from testbed.results import formats as numbers


def in_short(comparison: Comparison) -> list[tuple[str, str]]:
    """Return a heading and a sentence each for front, matched accuracy, tiers and classes."""
    found = [("Pareto front", _front(comparison))]
    if comparison.matched:
        found.append(("Matched accuracy", matched_words(comparison.matched[0])))
    for name, groups in (("Tiers", comparison.tiers), ("Device classes", comparison.classes)):
        sentence = _weakest(comparison, list(groups))
        if sentence:
            found.append((name, sentence))
    return found


def _front(comparison: Comparison) -> str:
    front = comparison.front("accuracy_mse")
    on = [label for label, yes in zip(comparison.labels, front.on_front, strict=True) if yes]
    return (
        f"{len(on)} of {len(comparison.labels)} arms are on the front of accuracy and best-attack "
        f"MSE: {', '.join(on)}."
    )


def matched_words(found: Matched) -> str:
    """Return which family hides most at an accuracy, and which ones it cannot be told from."""
    ranked = [
        ranked_defence
        for ranked_defence in found.ranked_defences
        if ranked_defence.rank is not None
    ]
    at = f"At {numbers.percent(found.accuracy)} accuracy"
    if found.below_reference is not None:
        at += f", {100 * found.below_reference:g} points below the reference,"
    if not ranked:
        return f"{at} no defence can be compared: none reaches it."
    best = ranked[0]
    alike = [ranked_defence.family for ranked_defence in ranked if ranked_defence.like_best]
    sentence = (
        f"{at} {best.family} hides most: MSE {numbers.significant(best.mse.value)}"
        f"{_bounds(numbers.bounds(best.mse))}, first in "
        f"{100 * best.rank_shares[0]:.0f} % of the resamples."
    )
    if best.reached_share < LEVEL:
        sentence += f" It reaches this accuracy in only {100 * best.reached_share:.0f} %."
    if alike:
        sentence += f" Not distinguishable from it: {', '.join(alike)}."
    elif len(ranked) > 1:
        sentence += " It can be told from all others."
    missed = [s.family for s in found.ranked_defences if s.rank is None]
    if missed:
        sentence += f" {', '.join(missed)} {'does' if len(missed) == 1 else 'do'} not reach it."
    return sentence


def _bounds(text: str) -> str:
    return f" ({text})" if text else ""


def _weakest(comparison: Comparison, groups: list[Groups]) -> str:
    if len(group_names(groups)) < 2:
        return ""
    counted = Counter(item.weakest.group for item in groups if item.weakest)
    if not counted:
        return ""
    total = sum(counted.values())
    name, times = sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))[0]
    relative = relative_leakage(groups, comparison.measured).get(name)
    sure = sum(
        1
        for item in groups
        if (weakest := item.weakest) is not None
        and weakest.group == name
        and weakest.to_mean.high is not None
        and weakest.to_mean.high < 0.0
    )
    change = ""
    if relative is not None:
        less = "below" if relative < 1 else "above"
        change = (
            f"; on average over arms its MSE is {100 * abs(relative - 1):.0f} % {less} the arm's"
        )
    return (
        f"{name} leaks most in {times} of {total} arms, in {sure} of which the interval of its "
        f"difference to the arm's mean excludes 0{change}."
    )
