"""The comparison's tables as Markdown: of all arms, and of all attacks by arm.

Each is written into a block of a document (:mod:`testbed.pages.documents`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from testbed.compare.analysis.attacks import Attacked
from testbed.compare.analysis.estimates import ArmEstimates
from testbed.compare.attack_rows import (
    AttackRow,
    Inference,
    InferenceRow,
    anchor_rows,
    attack_rows,
    inference_rows,
)
from testbed.compare.comparison import Comparison
from testbed.compare.prose import say
from testbed.core.errors import UserError
from testbed.pages.documents import Block, check_blocks, markdown_table
from testbed.pages.origin import of_run
from testbed.privacy.intervals import Interval
from testbed.results import formats as numbers
from testbed.results.figures import COST, LEAKAGE, SCORES, UTILITY, Figure, shown_in
from testbed.results.findings import readable
from testbed.results.schema import AttackResult


def arms_markdown(comparison: Comparison, command: str) -> str:
    """Return the table of all arms below a paragraph on how it was made."""
    figures = shown_in("markdown", UTILITY, LEAKAGE, SCORES, COST)
    headings = ("arm", "defence", *(figure.label for figure in figures))
    rows = [_arm_cells(item, figures) for item in comparison.measured]
    table = markdown_table(headings, rows, numbers=len(figures))
    return f"{say('arms_note', comparison, command)}\n\n{table}\n\n{_origin(comparison)}"


def _origin(comparison: Comparison) -> str:
    """Return the line that states the versions, scenario and seeds of the runs."""
    run = comparison.runs[0]
    host = run.results.host
    versions = {"testbed": comparison.summary.testbed_version} | (host.versions if host else {})
    name = comparison.summary.scenario.name
    return of_run(name, run.scenario, comparison.seeds, versions).line()


def _arm_cells(item: ArmEstimates, figures: Sequence[Figure]) -> list[str]:
    cells = [item.arm.label, item.arm.first.defence]
    for figure in figures:
        shown = item[figure.key].shown
        text = figure.fmt(shown.value)
        if figure.key == "mse" and item.best is not None and item.best.failed:
            text += "*"
        if figure.key == "live_channels" and shown.value is not None:
            whole = shown.value == int(shown.value)
            text = f"{numbers.count(shown.value) if whole else text} of "
            text += numbers.count(item["channels"].shown.value)
        between = numbers.bounds(shown, figure.fmt)
        cells.append(f"{text} ({between})" if between and figure.interval else text)
    return cells


_STOPPED = "†"
_LEADING = ("adversary", "attack", "reads", "is granted", "victims")


def attacks_markdown(comparison: Comparison, command: str) -> str:
    """Return the tables of all attacks, each below a paragraph on how it was made.

    Parameters
    ----------
    command : the command that makes them again.
    """
    anchors, attacks = anchor_rows(comparison), attack_rows(comparison)
    inferring = inference_rows(comparison)
    labels = comparison.labels
    stopped = any(cell is not None and cell.scored.stopped for row in attacks for cell in row.cells)
    pools = (row.facts.pool_size for row in attacks)
    pool = next(filter(None, pools), None)
    parts = [
        say("attacks_note", comparison, command, stopped, pool),
        _scores_table(labels, anchors, attacks),
    ]
    if inferring:
        parts += [say("inference_note", comparison), _inference_table(labels, inferring)]
    return "\n\n".join([*parts, _origin(comparison)])


def _scores_table(
    labels: Sequence[str], anchors: Sequence[AttackRow], attacks: Sequence[AttackRow]
) -> str:
    shown = [
        score
        for score in shown_in("ladder", SCORES)
        if any(_known(row, score.key) for row in (*anchors, *attacks))
    ]
    winners_by_arm = [
        {score.key: _winner(attacks, arm, score) for score in shown} for arm in range(len(labels))
    ]
    headings = [f"{label}: {score.label}" for label in labels for score in shown]
    rows = []
    for row in (*anchors, *attacks):
        cells = _leading(row.facts, row.victims)
        for attacked, winners in zip(row.cells, winners_by_arm, strict=True):
            for score in shown:
                best_one = None if row.facts.is_anchor else winners[score.key]
                cells.append(_score_cell(attacked, score, best_one))
        rows.append(cells)
    return _table(headings, rows)


def _known(row: AttackRow, name: str) -> bool:
    return any(cell is not None and cell.scores[name].value is not None for cell in row.cells)


def _winner(rows: Sequence[AttackRow], arm: int, score: Figure) -> float | None:
    """Return the score of the best attack on an arm; where no attack scores at all, none is."""
    cells = (row.cells[arm] for row in rows)
    values = [
        value
        for cell in cells
        if cell is not None and (value := cell.scores[score.key].value) is not None
    ]
    if score.better == "higher":  # for the owner of the arm
        return min(values, default=None)
    return max(values, default=0.0) or None


def _score_cell(cell: Attacked | None, figure: Figure, best: float | None) -> str:
    if cell is None:
        return numbers.ABSENT
    score = cell.scores[figure.key]
    text = figure.fmt(score.value)
    if figure.key == "mse":
        text += "\\*" if cell.failed else ""
        text += _STOPPED if cell.scored.stopped else ""
    if best is not None and score.value == best:
        text = f"**{text}**"
    between = numbers.bounds(score, figure.fmt) if figure.interval else ""
    return f"{text} ({between})" if between else text


def _inference_table(labels: Sequence[str], rows: Sequence[InferenceRow]) -> str:
    persons = any(cell is not None and cell.same_person for row in rows for cell in row.cells)
    scores = ("class right", "same person found") if persons else ("class right",)
    headings = [f"{label}: {heading}" for label in labels for heading in scores]
    lines = []
    for row in rows:
        cells = _leading(row.facts, row.victims)
        for cell in row.cells:
            cells += _inference_cells(cell)[: len(scores)]
        lines.append(cells)
    return _table(headings, lines)


def _inference_cells(cell: Inference | None) -> list[str]:
    if cell is None:
        return [numbers.ABSENT, numbers.ABSENT]
    return [
        _beside_chance(cell.right_class, cell.majority_class),
        _beside_chance(cell.same_person, cell.chance_same_person),
    ]


def _beside_chance(share: Interval | None, chance: float | None) -> str:
    if share is None or share.value is None:
        return numbers.ABSENT
    between = numbers.bounds(share, numbers.percent)
    text = numbers.percent(share.value) + (f" ({between})" if between else "")
    return text if chance is None else f"{text}, chance {numbers.percent(chance)}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table([*_LEADING, *headings], rows, numbers=1 + len(headings))


def _leading(facts: AttackResult, victims: Sequence[int]) -> list[str]:
    fewest, most = min(victims, default=0), max(victims, default=0)
    counted = numbers.count(most)
    if fewest != most:
        counted = f"{numbers.count(fewest)} to {counted}"
    reads = facts.position if isinstance(facts.position, str) else ""
    if facts.is_anchor:
        return ["anchor", readable(facts.attack), "", facts.threat_model, counted]
    return [facts.adversary, readable(facts.attack), reads, facts.threat_model, counted]


Table = Callable[[Comparison, str], str]
TABLES: tuple[tuple[str, Table], ...] = (
    ("python -m testbed.compare --markdown", arms_markdown),
    ("python -m testbed.compare --attacks-markdown", attacks_markdown),
)
"""The table of all arms, that of all attacks by arm, and the command that each block names."""


def tables_by_document(
    arms: Path | None, attacks: Path | None, label: str | None
) -> dict[Path, dict[Block, Table]]:
    """Return the tables that each document gets, and check that it has room for them.

    Parameters
    ----------
    arms, attacks : documents of the two tables, one and the same if wanted; None: not wanted.
    label : the name of the blocks, or None for blocks without one.

    Raises
    ------
    UserError : a label without a document or that is not a name, or a document that cannot be read
        or lacks a block.
    """
    if label is not None and arms is None and attacks is None:
        raise UserError(
            f"--label {label}: names the block of a table; give --markdown or --attacks-markdown"
        )
    tables: dict[Path, dict[Block, Table]] = {}
    for path, (command, table) in zip((arms, attacks), TABLES, strict=True):
        if path is not None:
            same = next((known for known in tables if known.resolve() == path.resolve()), path)
            tables.setdefault(same, {})[Block(command, label)] = table
    for path, blocks in tables.items():
        check_blocks(path, *blocks)
    return tables
