"""The table of all entries as Markdown, put between two marks of a document."""

from pathlib import Path

from testbed.compare.comparison import Comparison
from testbed.compare.measures import Measured
from testbed.core.errors import UserError
from testbed.report import numbers
from testbed.report.cells import Format
from testbed.report.files import write_bytes

BEGIN = "<!-- testbed.compare: begin -->"
END = "<!-- testbed.compare: end -->"

_COLUMNS: tuple[tuple[str, str, Format, bool], ...] = (
    ("accuracy", "accuracy", numbers.percent, True),
    ("dCor U", "dcor_u", numbers.significant, False),
    ("dCor V", "dcor_v", numbers.significant, False),
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
    data = comparison.summary.data
    seeds = ", ".join(map(str, comparison.seeds))
    one = len(comparison.seeds) == 1
    lines = [
        f"Made by `{command}`: {data.name if data else 'unknown data'}, "
        f"{'seed' if one else 'seeds'} {seeds}; in brackets 95 % intervals over "
        f"{'devices and images; one seed says nothing of other trainings' if one else 'seeds, devices and images'}. "  # noqa: E501
        "MSE, PSNR and SSIM are of the attack with the lowest MSE; an MSE marked * is above "
        "the mean image's: the attack failed, which is not privacy.",
        "",
        "| arm | defence | " + " | ".join(heading for heading, *_ in _COLUMNS) + " |",
        "|---|---|" + "---:|" * len(_COLUMNS),
    ]
    lines += [_line(item) for item in comparison.measured]
    return "\n".join(lines)


def write_markdown(path: Path, table: str) -> None:
    """Put the table between the marks of a document, or into a new one that holds nothing else.

    Raises
    ------
    UserError : the document cannot be read or written, or does not have each mark exactly once, the
        one that begins first.
    """
    text = replaced(path, table)
    write_bytes(path, text.encode("utf-8"))


def replaced(path: Path, table: str) -> str:
    """Return the document's text with the table in its place.

    Raises
    ------
    UserError : as ``write_markdown``.
    """
    block = f"{BEGIN}\n{table}\n{END}"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return f"{block}\n"
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(
            f"{path}: needs the lines '{BEGIN}' and '{END}', each once and in this order; "
            "the table goes between them"
        )
    before, _, rest = text.partition(BEGIN)
    return before + block + rest.partition(END)[2]


def _line(item: Measured) -> str:
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
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
