"""The table of all attacks by arm as Markdown, for a place between two marks of a document."""

from collections.abc import Sequence

from testbed.compare.analysis.attacks import Attacked
from testbed.compare.attack_rows import (
    AttackRow,
    Inference,
    InferenceRow,
    anchor_rows,
    attack_rows,
    inference_rows,
)
from testbed.compare.comparison import Comparison
from testbed.compare.markdown import made_by, table_line
from testbed.pages.cells import Format
from testbed.results import formats as numbers
from testbed.results.findings import readable
from testbed.results.schema import AttackResult, Interval

MARKED = "testbed.compare.attacks"
"""What the marks around this table say, before their label."""

# Score, its heading, how it is written, and the sign of what is better for the attacker.
_SCORES: tuple[tuple[str, str, Format, int], ...] = (
    ("mse", "MSE", numbers.significant, -1),
    ("psnr_db", "PSNR, dB", numbers.significant, 1),
    ("reidentification", "re-identified", numbers.percent, 1),
)
_STOPPED = "†"
_LEADING = ("adversary", "attack", "reads", "is granted", "victims")


def attacks_markdown(comparison: Comparison, command: str) -> str:
    """Return the tables with a sentence on how they were made.

    Parameters
    ----------
    command : the command that makes them again.
    """
    anchors, attacks = anchor_rows(comparison), attack_rows(comparison)
    inferring = inference_rows(comparison)
    labels = comparison.labels
    parts = [_preface(comparison, command, attacks), _scores_table(labels, anchors, attacks)]
    if inferring:
        covers = "the victims" if len(comparison.seeds) == 1 else "seeds alone"
        parts += [
            "Attacks that rebuild no image, and what they get right; intervals are over "
            f"{covers}. Chance is the share of the commonest class, or of a companion drawn "
            "blindly.",
            _inference_table(labels, inferring),
        ]
    return "\n\n".join(parts)


def _preface(comparison: Comparison, command: str, attacks: Sequence[AttackRow]) -> str:
    sentences = [
        made_by(comparison, command),
        "Every row is over the victims that its adversary reads, so rows of unlike positions are "
        "not of the same victims; an anchor's are those of the adversary who reads most. An MSE "
        "marked \\* is above the mean image's on the same victims: the attack failed, which is not "
        "privacy. The best attack of each column is bold.",
    ]
    if any(cell is not None and cell.scored.stopped for row in attacks for cell in row.cells):
        sentences.append(
            f"An MSE marked {_STOPPED} is of an attack whose decoder stopped at its limit of "
            "epochs, in one seed at least, before its plateau: more training may do better."
        )
    pools = [
        row.facts.pool_size or row.facts.scores.pool_size
        for row in attacks
        if row.facts.pool_size or row.facts.scores.pool_size
    ]
    if pools:
        sentences.append(
            f"Re-identified: nearest to its own original among {numbers.count(pools[0])} "
            f"(seed {comparison.seeds[0]}); chance is {numbers.percent(1.0 / (pools[0] or 1))}."
        )
    return " ".join(sentences)


def _scores_table(
    labels: Sequence[str], anchors: Sequence[AttackRow], attacks: Sequence[AttackRow]
) -> str:
    shown = [
        score for score in _SCORES if any(_known(row, score[0]) for row in (*anchors, *attacks))
    ]
    winners_by_arm = [
        {name: _winner(attacks, arm, name, sign) for name, *_, sign in shown}
        for arm in range(len(labels))
    ]
    headings = [f"{label}: {heading}" for label in labels for _, heading, *_ in shown]
    lines = _head(headings)
    for row in (*anchors, *attacks):
        cells = _leading(row.facts, row.victims)
        for attacked, winners in zip(row.cells, winners_by_arm, strict=True):
            for name, _, fmt, _ in shown:
                best_one = None if row.facts.is_anchor else winners[name]
                cells.append(_score_cell(attacked, name, fmt, best_one))
        lines.append(table_line(cells))
    return "\n".join(lines)


def _known(row: AttackRow, name: str) -> bool:
    return any(cell is not None and cell.scores[name].value is not None for cell in row.cells)


def _winner(rows: Sequence[AttackRow], arm: int, name: str, sign: int) -> float | None:
    """Return the score of the best attack on an arm; where no attack scores at all, none is."""
    found = (row.cells[arm] for row in rows)
    values = [
        value
        for cell in found
        if cell is not None and (value := cell.scores[name].value) is not None
    ]
    best = max(values, key=lambda value: sign * value, default=None)
    return None if best == 0.0 and sign > 0 else best


def _score_cell(cell: Attacked | None, name: str, fmt: Format, best: float | None) -> str:
    if cell is None:
        return numbers.ABSENT
    score = cell.scores[name]
    text = fmt(score.value)
    if name == "mse":
        text += "\\*" if cell.failed else ""
        text += _STOPPED if cell.scored.stopped else ""
    if best is not None and score.value == best:
        text = f"**{text}**"
    bounds = numbers.bounds(score) if name == "mse" else ""
    return f"{text} ({bounds})" if bounds else text


def _inference_table(labels: Sequence[str], rows: Sequence[InferenceRow]) -> str:
    persons = any(cell is not None and cell.same_person for row in rows for cell in row.cells)
    scores = ("class right", "same person found") if persons else ("class right",)
    headings = [f"{label}: {heading}" for label in labels for heading in scores]
    lines = _head(headings)
    for row in rows:
        cells = _leading(row.facts, row.victims)
        for cell in row.cells:
            cells += _inference_cells(cell)[: len(scores)]
        lines.append(table_line(cells))
    return "\n".join(lines)


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
    bounds = numbers.bounds(share, as_percent=True)
    text = f"{numbers.percent(share.value)} ({bounds})" if bounds else numbers.percent(share.value)
    return text if chance is None else f"{text}, chance {numbers.percent(chance)}"


def _head(headings: Sequence[str]) -> list[str]:
    """Return the first two lines of a table: its headings, names left and numbers right."""
    return [
        table_line([*_LEADING, *headings]),
        "|" + "---|" * (len(_LEADING) - 1) + "---:|" * (1 + len(headings)),
    ]


def _leading(facts: AttackResult, victims: Sequence[int]) -> list[str]:
    fewest, most = min(victims, default=0), max(victims, default=0)
    counted = numbers.count(most)
    if fewest != most:
        counted = f"{numbers.count(fewest)} to {counted}"
    reads = facts.position if isinstance(facts.position, str) else ""
    if facts.is_anchor:
        return ["anchor", readable(facts.attack), "", facts.threat_model, counted]
    return [facts.adversary, readable(facts.attack), reads, facts.threat_model, counted]
