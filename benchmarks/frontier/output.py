"""The comparison's table, figure and matched-accuracy verdict."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from frontier.matching import reached, upper_hull
from testbed.pages.documents import Block, markdown_table

BLOCK = Block("python benchmarks/defence_frontier.py")
OURS = "siftfunnel_plus"
COLUMNS = (
    ("arm", "arm"),
    ("seeds", "seeds"),
    ("accuracy", "accuracy, %"),
    ("best_mse", "best attack's MSE"),
    ("best_attack", "best attack"),
    ("residual_decoder_mse", "decoder's MSE"),
    ("residual_decoder_psnr_db", "PSNR, dB"),
    ("residual_decoder_ssim", "SSIM"),
    ("best_reidentified", "re-identified, %"),
    ("replay64_mse", "MSE, 64 releases"),
    ("dcor_v", "dCor² V"),
    ("dcor_u", "dCor² U"),
    ("live_channels", "live channels"),
    ("participation_ratio", "effective rank"),
    ("edge_macs", "edge MACs, M"),
    ("edge_params", "edge params"),
    ("wire_bytes", "bytes"),
)
_PERCENT = {"accuracy", "best_reidentified"}
_ERRORS = {"best_mse", "residual_decoder_mse", "replay64_mse"}
_DIGITS = {
    "residual_decoder_psnr_db": 1,
    "residual_decoder_ssim": 2,
    "dcor_v": 2,
    "dcor_u": 2,
    "participation_ratio": 1,
}


def is_ours(row: dict[str, Any]) -> bool:
    """Tell whether a row is an arm of the defence that is compared with all others."""
    return OURS in row["arm"]


def _cell(name: str, row: dict[str, Any]) -> str:
    value = row.get(name)
    if value is None or value == "":
        return ""
    if name == "arm":
        return f"`{value}`"
    if name in _PERCENT:
        return f"{100 * value:.1f}"
    if name in _ERRORS:
        return f"{value:.4f}"
    if name == "edge_macs":
        return f"{value / 1e6:.2f}"
    if isinstance(value, float):
        digits = _DIGITS.get(name, 0)
        return f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table, by falling accuracy."""
    ordered = sorted(rows, key=lambda each: -each["accuracy"])
    return markdown_table(
        [title for _, title in COLUMNS],
        ([_cell(name, row) for name, _ in COLUMNS] for row in ordered),
    )


def verdicts(rows: Sequence[dict[str, Any]], metric: str = "best_mse") -> str:
    """Return, for each arm of ours, what all others reach at its accuracy, as a Markdown table."""
    others = [(row["accuracy"], row[metric]) for row in rows if not is_ours(row)]
    lines = []
    for row in sorted(filter(is_ours, rows), key=lambda each: -each["accuracy"]):
        other = reached(others, row["accuracy"])
        cells = [f"`{row['arm']}`", f"{100 * row['accuracy']:.1f}", f"{row[metric]:.4f}"]
        if other is None:
            lines.append([*cells, "not that accuracy", ""])
        else:
            lines.append([*cells, f"{other:.4f}", f"{row[metric] / other:.2f}"])
    return markdown_table(["arm", "accuracy, %", "MSE", "others reach", "ratio"], lines)


def draw(rows: Sequence[dict[str, Any]], path: Path, anchors: dict[str, float]) -> None:
    """Draw accuracy against the best attack's MSE, with the hull of all other defences.

    Parameters
    ----------
    anchors : MSE of answers that need no features, drawn as lines.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 5), layout="constrained")
    others = [(row["accuracy"], row["best_mse"]) for row in rows if not is_ours(row)]
    hull = upper_hull(others)
    corners = [100 * x for x, _ in hull], [y for _, y in hull]
    axes.plot(*corners, color="#888888", label="hull of the others")
    number_of = {
        row["arm"]: number
        for number, row in enumerate(sorted(rows, key=lambda each: -each["accuracy"]), 1)
    }
    for ours, colour, marker in ((False, "#4a6fa5", "o"), (True, "#c44e52", "D")):
        own = [row for row in rows if is_ours(row) == ours]
        axes.scatter(
            [100 * row["accuracy"] for row in own],
            [row["best_mse"] for row in own],
            color=colour,
            marker=marker,
            label="SiftFunnel+" if ours else "other defences",
        )
        for row in own:  # numbers, as in the list beside the axes: names would cover each other
            axes.annotate(
                str(number_of[row["arm"]]),
                (100 * row["accuracy"], row["best_mse"]),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
            )
    listed = "\n".join(
        f"{number}  {arm.removeprefix('siftfunnel_cnn/')}" for arm, number in number_of.items()
    )
    axes.text(1.02, 1.0, listed, transform=axes.transAxes, va="top", fontsize=7)
    for name, value in anchors.items():
        axes.axhline(value, linestyle=":", color="#555555")
        axes.annotate(name, (axes.get_xlim()[0], value), fontsize=7, va="bottom")
    axes.set_xlabel("test accuracy, %")
    axes.set_ylabel("best attack's MSE per element")
    axes.legend(loc="lower left", fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
