"""The comparison's tables as Markdown: of all arms, and of all attacks by arm.

Each is written between two marks of a document (:mod:`testbed.pages.documents`).
"""

from collections.abc import Callable, Mapping, Sequence
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
from testbed.core.errors import UserError
from testbed.pages.cells import Format
from testbed.pages.documents import Marks, check_marks, labelled, write_between
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


def markdown_table(comparison: Comparison, command: str) -> str:
    """Return the table with a sentence on how it was made."""
    lines = [
        f"{made_by(comparison, command)} "
        "MSE, PSNR and SSIM are of the attack with the lowest MSE; an MSE marked * is above "
        "the mean image's: the attack failed, which is not privacy.",
        "",
        "| arm | defence | " + " | ".join(heading for heading, *_ in _COLUMNS) + " |",
        "|---|---|" + "---:|" * len(_COLUMNS),
    ]
    lines += [_arm_line(item) for item in comparison.measured]
    return "\n".join(lines)


def made_by(comparison: Comparison, command: str) -> str:
    """Return the sentence on which data and seeds a table is of, and what its intervals cover."""
    data = comparison.summary.data
    seeds = ", ".join(map(str, comparison.seeds))
    one = len(comparison.seeds) == 1
    return (
        f"Made by `{command}`: {data.name if data else 'unknown data'}, "
        f"{'seed' if one else 'seeds'} {seeds}; in brackets 95 % intervals over "
        f"{'devices and images; one seed says nothing of other trainings' if one else 'seeds, devices and images'}."  # noqa: E501
    )


def table_line(cells: Sequence[str]) -> str:
    """Return a line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _arm_line(item: ArmEstimates) -> str:
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
    return table_line(cells)


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


"""What the marks around a table say, and the table: of all arms, and of all attacks by arm."""


Table = Callable[[Comparison, str], str]
TABLES: tuple[tuple[str, Table], ...] = (
    ("testbed.compare", markdown_table),
    ("testbed.compare.attacks", attacks_markdown),
)
"""What the marks around a table say, and the table: of all arms, and of all attacks by arm."""


def check_documents(arms: Path | None, attacks: Path | None, label: str | None) -> None:
    """Refuse documents without the marks, before anything is computed or written.

    Raises
    ------
    UserError : as ``write_documents``.
    """
    for path, tables in _tables(arms, attacks, label).items():
        check_marks(path, *tables)


def write_documents(
    comparison: Comparison,
    command: str,
    arms: Path | None,
    attacks: Path | None,
    label: str | None,
) -> None:
    """Write the table of all arms, and that of all attacks by arm, each where it is wanted.

    Parameters
    ----------
    command : makes the tables again.
    arms, attacks : documents of the two tables, one and the same if wanted; None: not wanted.
    label : the name in the marks, or None for marks without one.

    Raises
    ------
    UserError : a label without a document or that is no name, a document that cannot be read or
        written, or that lacks the marks.
    """
    for path, tables in _tables(arms, attacks, label).items():
        texts = [(marks, table(comparison, command)) for marks, table in tables.items()]
        write_between(path, *texts)


def _tables(
    arms: Path | None, attacks: Path | None, label: str | None
) -> Mapping[Path, dict[Marks, Table]]:
    """Return which tables go into which document, and between which marks."""
    if label is not None and arms is None and attacks is None:
        raise UserError(
            f"--label {label}: names the marks of a table; give --markdown or --attacks-markdown"
        )
    found: dict[Path, dict[Marks, Table]] = {}
    for path, (marked, table) in zip((arms, attacks), TABLES, strict=True):
        if path is not None:
            place = next((known for known in found if known.resolve() == path.resolve()), path)
            found.setdefault(place, {})[labelled(marked, label)] = table
    return found
