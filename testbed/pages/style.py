"""The look of all figures: one colour per arm, plain axes, the width of the report."""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from testbed.privacy.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH_IN = 8.2
DPI = 120

# The palette of Okabe and Ito, distinguishable under the common colour-vision deficiencies, without
# its yellow, which is hard to see on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES: tuple[Any, ...] = ("-", "--", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK = "#222222"
MUTED = "#6b6b6b"
RULE = "#d9d9d9"
LOG_SHORT = 300.0
"""A log axis spanning less than this ratio is labelled at 1, 2 and 5 of every decade."""

_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8a8a8a",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "text.color": INK,
    "text.parse_math": False,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
}


def applied() -> AbstractContextManager[None]:
    """Return a context for drawing figures that restores the caller's settings."""
    import matplotlib as mpl

    return mpl.rc_context(_RC)


def colour(index: int) -> str:
    """Return the colour of the arm at ``index`` of the scenario."""
    return PALETTE[index % len(PALETTE)]


def dash(index: int) -> Any:
    """Return the line style of an arm, which distinguishes arms of the same colour."""
    return DASHES[(index // len(PALETTE)) % len(DASHES)]


def marker(index: int) -> str:
    """Return the mark of an arm, or of another series."""
    return MARKERS[index % len(MARKERS)]


def figure(rows: int, columns: int, height_in: float, **options: Any) -> "tuple[Figure, Any]":
    """Return a figure of the report's width and its axes, (rows, columns) of them.

    Figures do not use pyplot, which needs global state and may open a display.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots(rows, columns, squeeze=False, **options)


def png(made: "Figure") -> bytes:
    """Return the figure as PNG bytes, the same for the same figure."""
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def mark(panel: "Axes", x: Interval | float, y: Interval | float, **look: Any) -> None:
    """Draw a mark at known numbers, with an arm over each interval."""
    (at, across), (height, along) = _with_error(x), _with_error(y)
    panel.errorbar([at], [height], xerr=across, yerr=along, **look)


def _with_error(number: Interval | float) -> tuple[float, list[list[float]] | None]:
    """Return a number, and matplotlib's lower and upper error where it has an interval."""
    if not isinstance(number, Interval):
        return number, None
    value = number.value or 0.0
    low = value if number.low is None else min(number.low, value)
    high = value if number.high is None else max(number.high, value)
    return value, [[value - low], [high - value]]


def rows(panel: "Axes", labels: Sequence[str]) -> None:
    """Label the rows of a chart from the top, without grid lines between them."""
    panel.set_yticks(range(len(labels)), labels)
    panel.set_ylim(len(labels) - 0.5, -0.5)
    panel.grid(visible=False, axis="y")


def within_row(row: int, index: int, count: int, step: float, width: float = 0.7) -> float:
    """Return where one of several marks of a row goes, ``step`` apart or as the row allows."""
    return row + (index - (count - 1) / 2) * min(step, width / count)


def percent_axis(axis: "Axis") -> None:
    """Label an axis of shares in per cent."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def beside(panel: "Axes", text: str, at: tuple[float, float], **look: Any) -> None:
    """Write a small text to the right of a point."""
    usual: dict[str, Any] = {"xytext": (6, 0), "va": "center", "fontsize": 7.5, "color": MUTED}
    panel.annotate(text, at, textcoords="offset points", **(usual | look))


def better(panel: "Axes", up: bool = True) -> None:
    """Point to the corner in which the best arms are: to the right, up or down."""
    panel.annotate(
        "better ↗" if up else "better ↘",
        (1, int(up)),
        xycoords="axes fraction",
        xytext=(-4, -4 if up else 4),
        textcoords="offset points",
        ha="right",
        va="top" if up else "bottom",
        fontweight="bold",
        color=INK,
    )


def panels(
    count: int, most_columns: int, row_in: float, extra_in: float = 0.0, **options: Any
) -> "tuple[Figure, Any]":
    """Return a figure with ``count`` panels, row by row, and its axes; unused axes are hidden."""
    columns = min(most_columns, count)
    lines = -(-count // columns)
    made, axes = figure(lines, columns, extra_in + lines * row_in, **options)
    for spare in axes.flat[count:]:
        spare.set_axis_off()
    return made, axes


def legend_above(made: "Figure", handles: "Sequence[Artist]", columns: int = 4) -> None:
    """Draw a legend above the axes."""
    made.legend(handles=handles, loc="outside upper left", ncols=min(columns, len(handles)))


def reference_line(
    axes: "Axes",
    at: float,
    text: str,
    vertical: bool = False,
    dashes: Any = (0, (4, 3)),
    shade: str = MUTED,
    at_top: bool = False,
    before: bool = False,
) -> None:
    """Draw a labelled line across the axes."""
    line: Any = {"color": shade, "linewidth": 1, "linestyle": dashes, "zorder": 1}
    label: Any = {"textcoords": "offset points", "fontsize": 8, "color": shade}
    if vertical:
        axes.axvline(at, **line)
        label |= {"xycoords": ("data", "axes fraction"), "rotation": 90}
        label |= {"ha": "right" if before else "left", "va": "top" if at_top else "bottom"}
        offset = (-2 if before else 3, -4 if at_top else 4)
        axes.annotate(text, (at, float(at_top)), offset, **label)
    else:
        axes.axhline(at, **line)
        label |= {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
        axes.annotate(text, (1, at), (-2, 2), **label)


def pale(shade: str) -> str:
    """Return a colour mixed with white, opaque so that grid lines do not show through."""
    channels = (int(shade[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(0.42 * channel + 0.58 * 255):02x}" for channel in channels)


def plain_log_ticks(axis: "Axis") -> None:
    """Label a log axis 0.1, 1, 10, 1,000 instead of powers, more densely on a short axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    short = high / max(low, 1e-12) < LOG_SHORT
    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if short else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def key(label: str, shade: str, mark: str, **look: Any) -> "Artist":
    """Return an entry of a legend: a mark and its label."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=shade, marker=mark, linestyle="", label=label, **look)


def arm_legend(made: "Figure", names: Sequence[str]) -> None:
    """Draw a legend of the arms above the axes."""
    legend_above(made, [key(name, colour(at), marker(at)) for at, name in enumerate(names)])
