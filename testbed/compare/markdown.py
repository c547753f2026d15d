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
from testbed.pages.cells import Format
from testbed.pages.documents import Block, check_blocks, markdown_table
from testbed.results import formats as numbers
from testbed.results.findings import readable
from testbed.results.schema import AttackResult, Interval

_COLUMNS: tuple[tuple[str, str, Format, bool], ...] = (
    ("accuracy", "accuracy", numbers.percent, True),
    ("dCor² U", "dcor_u", numbers.significant, False),
    ("dCor² V", "dcor_v", numbers.significant, False),
    ("live channels", "live_channels", numbers.significant, False),
    ("participation ratio", "participation_ratio", numbers.significant, False),
    ("spectral rank", "spectral_rank", numbers.significant, False),
    ("MSE", "mse", numbers.significant, False),
    ("PSNR, dB", "psnr_db", numbers.significant, False),
    ("SSIM", "ssim", numbers.significant, False),
    ("edge MACs", "macs", numbers.scaled, False),
    ("edge parameters", "parameters", numbers.scaled, False),
    ("uplink", "uplink_bytes", lambda value: numbers.scaled(value, "B"), False),
)
_WITH_INTERVAL = ("accuracy", "mse")


def arms_markdown(comparison: Comparison, command: str) -> str:
    """Return the table of all arms below a paragraph on how it was made."""
    headings = ("arm", "defence", *(heading for heading, *_ in _COLUMNS))
    rows = [_arm_cells(item) for item in comparison.measured]
    table = markdown_table(headings, rows, numbers=len(_COLUMNS))
    return f"{say('arms_note', comparison, command)}\n\n{table}"


def _arm_cells(item: ArmEstimates) -> list[str]:
    cells = [item.entry.label, item.entry.arm.defence]
    for _, name, fmt, as_percent in _COLUMNS:
        shown = item[name].shown
        text = fmt(shown.value)
        if name == "mse" and item.best is not None and item.best.failed:
            text += "*"
        if name == "live_channels" and shown.value is not None:
            whole = shown.value == int(shown.value)
            text = f"{numbers.count(shown.value) if whole else text} of "
            text += numbers.count(item["channels"].shown.value)
        bounds = numbers.bounds(shown, as_percent)
        cells.append(f"{text} ({bounds})" if bounds and name in _WITH_INTERVAL else text)
    return cells


# Score, its heading, how it is written, and the sign of what is better for the attacker.
_SCORES: tuple[tuple[str, str, Format, int], ...] = (
    ("mse", "MSE", numbers.significant, -1),
    ("psnr_db", "PSNR, dB", numbers.significant, 1),
    ("reidentification", "re-identified", numbers.percent, 1),
)
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
    pools = (row.facts.pool_size or row.facts.scores.pool_size for row in attacks)
    pool = next(filter(None, pools), None)
    parts = [
        say("attacks_note", comparison, command, stopped, pool),
        _scores_table(labels, anchors, attacks),
    ]
    if inferring:
        parts += [say("inference_note", comparison), _inference_table(labels, inferring)]
    return "\n\n".join(parts)


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
    rows = []
    for row in (*anchors, *attacks):
        cells = _leading(row.facts, row.victims)
        for attacked, winners in zip(row.cells, winners_by_arm, strict=True):
            for name, _, fmt, _ in shown:
                best_one = None if row.facts.is_anchor else winners[name]
                cells.append(_score_cell(attacked, name, fmt, best_one))
        rows.append(cells)
    return _table(headings, rows)


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
    bounds = numbers.bounds(share, as_percent=True)
    text = f"{numbers.percent(share.value)} ({bounds})" if bounds else numbers.percent(share.value)
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


"""What the marks around a table say, and the table: of all arms, and of all attacks by arm."""


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
