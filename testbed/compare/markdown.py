"""The table of all entries as Markdown, for a place between two marks of a document."""

from collections.abc import Sequence

from testbed.compare.analysis.estimates import ArmEstimates
from testbed.compare.comparison import Comparison
from testbed.pages.cells import Format
from testbed.results import formats as numbers

MARKED = "testbed.compare"
"""What the marks around this table say, before their label."""

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
    lines += [_line(item) for item in comparison.measured]
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


def _line(item: ArmEstimates) -> str:
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
