"""The comparison's tables as cells (testbed.pages.cells)."""

from collections.abc import Sequence

from testbed.compare.analysis.estimates import ArmEstimates
from testbed.compare.analysis.groups import Groups, group_names, relative_leakage
from testbed.compare.analysis.matched import Matched, RankedDefence
from testbed.compare.comparison import Comparison
from testbed.pages.cells import Cell, Row, Table, number, victims_cell, words
from testbed.privacy.intervals import LEVEL
from testbed.results import formats as numbers
from testbed.results.choice import WORDS
from testbed.results.figures import FIGURES, SCORES, Figure, shown_in
from testbed.results.findings import FEW_VICTIMS, readable

ACCURACY = FIGURES["accuracy"]
TIMES_OR_FEWER = 2


def arm_table(comparison: Comparison) -> Table:
    """Return utility and the best attack of every arm; those on the front are marked."""
    front = comparison.front("accuracy_mse").on_front
    mse, *others = shown_in("compare", SCORES)
    rows = []
    for place, item in enumerate(comparison.measured):
        difference = comparison.differences[place]
        rows.append(
            Row(
                item.arm.label,
                [
                    _cell(item, ACCURACY),
                    number(difference.accuracy, numbers.points)
                    if difference
                    else words("reference"),
                    _which(item),
                    _cell(item, mse),
                    number(difference.mse, mse.fmt) if difference else words("reference"),
                    *(_cell(item, score) for score in others),
                ],
                _kind(item),
                "best" if front[place] else "",
            )
        )
    headings = ["arm", ACCURACY.label, "to the reference", "best attack by", mse.label]
    headings += ["to the reference", *(score.label for score in others)]
    return Table(headings, rows)


def figure_table(comparison: Comparison, *groups: tuple[Figure, ...]) -> Table:
    """Return the declared figures of these groups, a row per arm."""
    figures = shown_in("compare", *groups)
    rows = [
        Row(item.arm.label, [_cell(item, figure) for figure in figures])
        for item in comparison.measured
    ]
    return Table(["arm", *(figure.label for figure in figures)], rows)


def adversary_table(comparison: Comparison) -> Table | None:
    """Return the MSE of every adversary's best attack on every arm."""
    names = list(
        dict.fromkeys(name for item in comparison.measured for name in item.attacks.by_adversary)
    )
    if len(names) < TIMES_OR_FEWER:
        return None
    rows = []
    for item in comparison.measured:
        cells = []
        for name in names:
            found = item.attacks.by_adversary.get(name)
            cell = number(found.scores["mse"] if found else None, numbers.significant)
            what = readable(found.facts.attack) if found else ""
            failed = "failed" if found and found.failed else ""
            note = "; ".join(filter(None, (cell.note, what, failed)))
            cells.append(Cell(cell.text, cell.value, note))
        rows.append(Row(item.arm.label, cells))
    return Table(["arm", *names], rows)


def front_table(comparison: Comparison) -> Table:
    """Return for every trade which arms are on the front, and how often in the resamples."""
    rows = []
    for place, item in enumerate(comparison.measured):
        cells = []
        for front in comparison.fronts:
            share = float(front.share[place])
            known = share == share
            text = numbers.ABSENT if not known else "front" if front.on_front[place] else "no"
            note = f"{100 * share:.0f}{numbers.THIN}% of resamples" if known else ""
            cells.append(Cell(text, share if known else None, note))
        rows.append(Row(item.arm.label, cells))
    trade_offs = [front.trade_off for front in comparison.fronts]
    return Table(["arm", *(f"{each.x.label} and {each.y.label}" for each in trade_offs)], rows)


def matched_table(found: Matched) -> Table:
    """Return the ranking of the families at one accuracy."""
    rows = [
        Row(
            ranked_defence.family,
            _standing(ranked_defence),
            _verdict(ranked_defence),
            _mark(ranked_defence),
        )
        for ranked_defence in found.ranked_defences
    ]
    headings = ["defence", "rank", "MSE", "to the best", "first in", "settings used"]
    return Table(headings, rows)


def _standing(ranked_defence: RankedDefence) -> list[Cell]:
    if ranked_defence.rank is None:
        return [words("")] * 4 + [words("does not reach this accuracy")]
    to_best = ranked_defence.to_best
    first = ranked_defence.rank_shares[0] if ranked_defence.rank_shares else None
    return [
        number(ranked_defence.rank, numbers.count),
        number(ranked_defence.mse, numbers.significant),
        number(to_best, numbers.significant) if to_best else words("best"),
        number(first, numbers.percent),
        words(
            " and ".join(ranked_defence.settings),
            "more accurate than asked" if ranked_defence.reached == "more accurate" else "",
        ),
    ]


def _verdict(ranked_defence: RankedDefence) -> str:
    said = "not distinguishable from the best" if ranked_defence.like_best else ""
    seldom = ""
    if ranked_defence.rank is not None and ranked_defence.reached_share < LEVEL:
        seldom = f"reaches it in {100 * ranked_defence.reached_share:.0f} % of the resamples"
    return "; ".join(filter(None, (said, seldom)))


def _mark(ranked_defence: RankedDefence) -> str:
    return "best" if ranked_defence.rank == 1 else "anchor" if ranked_defence.rank is None else ""


def weakest_table(comparison: Comparison, groups: Sequence[Groups]) -> Table | None:
    """Return for every arm the group of devices that leaks most."""
    mse, *others = shown_in("groups", SCORES)
    rows = []
    for item, found in zip(comparison.measured, groups, strict=True):
        weakest = found.weakest
        if weakest is None:
            continue
        mean = item["mse"].shown.value
        share = weakest.attacked.mse / mean - 1.0 if mean else None
        scores = weakest.attacked.scores
        rows.append(
            Row(
                found.label,
                [
                    words(weakest.group, f"{100 * weakest.weakest_share:.0f} % of resamples"),
                    victims_cell(weakest.victims),
                    number(scores["mse"], mse.fmt),
                    _signed(share),
                    number(weakest.to_mean, mse.fmt),
                    *(number(scores[score.key], score.fmt) for score in others),
                ],
            )
        )
    headings = ["arm", "leaks most", "victims", mse.label]
    headings += ["relative to the arm", f"{mse.label} minus the arm's"]
    return Table([*headings, *(score.label for score in others)], rows) if rows else None


def group_matrix(comparison: Comparison, groups: Sequence[Groups]) -> Table | None:
    """Return arms by groups: the MSE of the best attack, the group that leaks most marked."""
    names = group_names(groups)
    if len(names) < TIMES_OR_FEWER:
        return None
    rows = []
    for item in groups:
        cells = []
        for name in names:
            score = item.score(name)
            cell = number(score.attacked.scores["mse"] if score else None, numbers.significant)
            few = "few" if score and score.victims < FEW_VICTIMS else ""
            most = "leaks most" if score and score is item.weakest else ""
            note = "; ".join(filter(None, (cell.note, few, most)))
            cells.append(Cell(cell.text, cell.value, note))
        rows.append(Row(item.label, cells))
    relative = relative_leakage(groups, comparison.measured)
    mean = [_signed(relative[name] - 1.0 if name in relative else None) for name in names]
    rows.append(Row("mean, relative to the arm", mean, kind="anchor"))
    return Table(["arm", *names], rows)


def _signed(share: float | None) -> Cell:
    if share is None:
        return words(numbers.ABSENT)
    sign = "+" if share > 0 else "\u2212" if share < 0 else ""
    return Cell(f"{sign}{100 * abs(share):.0f}{numbers.THIN}%", share)


def _cell(item: ArmEstimates, figure: Figure) -> Cell:
    shown = item[figure.key].shown
    constant = shown.low is not None and shown.low == shown.high  # needs no interval
    return number(shown.value if constant else shown, figure.fmt)


def _which(item: ArmEstimates) -> Cell:
    if item.best is None:
        return words("none")
    facts = item.best.facts
    failed = "; failed: worse than the mean image" if item.best.failed else ""
    several = len(item.attacks.rebuilding) > 1
    chosen = f"; {WORDS[item.best.rule]}" if item.best.rule and several else ""
    return words(facts.adversary, f"{readable(facts.attack)}{failed}{chosen}")


def _kind(item: ArmEstimates) -> str:
    arm = item.arm.first
    precision = arm.precision if arm.precision not in ("", "float32") else ""
    seeds = f"{len(item.arm.members)} {'seed' if len(item.arm.members) == 1 else 'seeds'}"
    parts = (readable(arm.front_end), readable(arm.defence), precision, seeds)
    return ", ".join(filter(None, parts))
