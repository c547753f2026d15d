"""Tables of what attacks achieved under each threat model, by access type, and between arms."""

from collections import Counter

from testbed.pages.cells import Cell, Row, Table, group, number, part_cells, words
from testbed.privacy.intervals import Interval
from testbed.report.tables.threat_models import Best, Ladder, Rung
from testbed.results import formats as numbers
from testbed.results.choice import WORDS
from testbed.results.figures import SCORES, Figure, Format, shown_in, value_at
from testbed.results.findings import bound_for, readable, weakest_bound
from testbed.results.reading import Results
from testbed.results.schema import ArmResult, BoundLevel, ErrorBound


def threat_table(results: Results) -> Table | None:
    """Return the best attack of every threat model, one column per arm, above each arm's bound."""
    ladder = Ladder(results)
    rungs = ladder.rungs()
    if not rungs:
        return None
    notes = [_where(rung) for rung in rungs]
    seen = Counter((rung.words, note) for rung, note in zip(rungs, notes, strict=True))
    rows = []
    for rung, note in zip(rungs, notes, strict=True):
        if seen[rung.words, note] > 1:
            note = f"{note}; read by {', '.join(rung.position.adversaries)}"
        cells = [_best_cell(arm, rung, ladder.best(arm, rung)) for arm in results.arms]
        rows.append(Row(rung.words, cells, note))
    rows.append(
        Row("error bound for any attack", [_bound_cell(arm) for arm in results.arms], kind="anchor")
    )
    entropies = [_entropy_cell(arm) for arm in results.arms]
    if any(cell.value is not None for cell in entropies):
        rows.append(Row("CEM's bound, relative to no release", entropies, kind="anchor"))
    return Table(["granted beside the features", *(arm.name for arm in results.arms)], rows)


def _where(rung: Rung) -> str:
    """Return where a rung reads, and how many images of its own it holds."""
    held = numbers.count(rung.grants.auxiliary_images)
    return f"{rung.position.words}; {held} images of its own"


def _best_cell(arm: ArmResult, rung: Rung, best: Best | None) -> Cell:
    if best is None:
        return words(numbers.ABSENT)
    attack = best.attack
    notes = [f"{readable(attack.attack)}, {attack.adversary}"]
    if best.victims < best.read:
        notes.append(
            f"on {numbers.count(best.victims)} of {numbers.count(best.read)} victims, where the "
            f"best of its own attacks reaches {numbers.significant(best.own_mse)}"
        )
    else:
        notes.append(f"{numbers.count(best.victims)} victims")
    if best.rule:
        notes.append(WORDS[best.rule])
    if attack.worse_than_mean_image:
        notes.append("failed: worse than the mean image")
    bound = bound_for(arm, rung.grants.replays)
    if bound:
        notes.append(f"error bound {numbers.significant(bound, 2)}")
    return number(best.mse, numbers.significant, "; ".join(notes))


def _bound_cell(arm: ArmResult) -> Cell:
    """Return the bound that holds for all threat models: that for the most releases averaged."""
    bound = weakest_bound(arm)
    if bound is None:
        return words(numbers.ABSENT)
    if bound.reason or not bound.levels:
        value = bound.levels[0].mse if bound.levels else None
        return Cell(numbers.significant(value), value, bound.reason)
    lowest, *others = sorted(bound.levels, key=lambda level: level.mse or 0.0)
    if lowest.mse is None:
        return words(numbers.ABSENT)
    several = f", for {_releases(lowest)}" if others else ""
    notes = [f"on smoothed images{several}", _estimate_words(bound, lowest)]
    notes += [f"{numbers.significant(item.mse, 2)} for {_releases(item)}" for item in others]
    return number(lowest.mse, numbers.significant, "; ".join(filter(None, notes)))


def _releases(level: BoundLevel) -> str:
    if level.replays in (None, 1):
        return "one release"
    return f"means over {numbers.count(level.replays)} releases"


def _estimate_words(bound: ErrorBound, level: BoundLevel) -> str:
    """Say which estimate an error bound is the lower confidence limit of."""
    if level.noise_free is not None:
        return "noise-free: directions that no feature responds to"
    estimates = [
        (lower, name, value)
        for name, value, lower in (
            ("spectrum-aware", level.spectrum, level.spectrum_lower),
            ("dFIL", level.dfil, level.dfil_lower),
        )
        if value is not None and lower is not None
    ]
    if not estimates or bound.confidence is None:
        return ""
    _, name, value = max(estimates)
    limit = f"lower {100 * bound.confidence:g} % confidence limit"
    return f"{limit} of the {name} estimate {numbers.significant(value)}"


def _entropy_cell(arm: ArmResult) -> Cell:
    """Return CEM's bound relative to no release, which is no error bound."""
    bound = weakest_bound(arm)
    left = bound.levels[0].cem_relative if bound is not None and bound.levels else None
    if left is None:
        return words(numbers.ABSENT)
    return number(left, numbers.significant, "a relative figure, no error bound")


def link_table(results: Results) -> Table | None:
    """Return the best attack of every arm by the type of the victim's link."""
    columns = [Figure("victims", "victims", numbers.count), *shown_in("links", SCORES)]
    rows: list[Row] = []
    for arm in results.arms:
        best = arm.best
        if best is None or not best.by_link:
            continue
        title = f"{arm.name}: {readable(best.attack)}, {best.adversary}"
        rows.append(group(title, len(columns)))
        rows += [Row(entry.link, part_cells(entry, columns)) for entry in best.by_link]
    return Table(["link", *(figure.label for figure in columns)], rows) if rows else None


def comparison_table(results: Results) -> Table | None:
    """Return paired differences of the arms from the first, by each adversary's best attack."""
    scores = [score for score in SCORES if "differences" in score.places]
    rows = [
        Row(
            f"{item.arm} − {item.reference}, {item.adversary}",  # noqa: RUF001 - a minus sign
            [
                words(f"{readable(item.attack)} / {readable(item.reference_attack)}"),
                *(_difference(value_at(item.difference, s.column), s.fmt) for s in scores),
                number(item.victims, numbers.count),
                number(item.devices, numbers.count),
            ],
        )
        for item in results.summary.comparisons
    ]
    labels = [score.label for score in scores]
    headings = ["difference", "best attacks", *labels, "shared victims", "devices"]
    return Table(headings, rows) if rows else None


def _difference(interval: Interval, fmt: Format) -> Cell:
    unclear = interval.low is not None and interval.low <= 0.0 <= (interval.high or 0.0)
    return number(interval, fmt, "not shown to differ" if unclear else "")


def inference_table(results: Results) -> Table | None:
    """Return what was inferred of classes and persons without rebuilding an image."""
    rows = [
        Row(
            f"{arm.name}, {attack.adversary}",
            [
                number(attack.inferred.class_, numbers.percent),
                number(attack.inferred.majority_class, numbers.percent),
                number(attack.inferred.same_person, numbers.percent),
                number(attack.inferred.chance_same_person, numbers.percent),
            ],
        )
        for arm in results.arms
        for attack in arm.attacks
        if attack.inferred is not None
    ]
    headings = ["arm, adversary", "class right", "majority class", "same person found", "chance"]
    return Table(headings, rows) if rows else None
