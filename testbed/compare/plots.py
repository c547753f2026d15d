"""The comparison's figures: fronts, matched accuracy, and the devices that leak most."""

from collections.abc import Sequence
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING

from testbed.compare.analysis.groups import Groups, group_names
from testbed.compare.analysis.matched import families_of
from testbed.compare.analysis.pareto import Front
from testbed.compare.comparison import Comparison
from testbed.pages import style
from testbed.pages.plots import Plot, draw_figures
from testbed.results.figures import COST, FIGURES, Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MSE = FIGURES["mse"].axis_label
MAX_LABELS = 14
ROW_IN = 0.27


def _front(comparison: Comparison, name: str) -> "Figure | None":
    """Draw one trade-off."""
    front = comparison.front(name)
    trade_off = front.trade_off
    points = [trade_off.point(item) for item in comparison.measured]
    known = [place for place, point in enumerate(points) if all(map(isfinite, point))]
    if not known:
        return None
    made, axes = style.figure(1, 1, 4.9)
    panel = axes[0][0]
    looks = _looks(comparison)
    for place in known:
        item = comparison.measured[place]
        x, y = (estimate.shown for estimate in trade_off.of(item))
        shade, mark = looks[item.arm.family]
        on = bool(front.on_front[place])
        style.mark(
            panel,
            x,
            y,
            fmt=mark,
            color=shade if on else style.pale(shade),
            markersize=7.5 if on else 5.5,
            markeredgecolor=shade,
            markerfacecolor=shade if on else "white",
            elinewidth=0.9,
            capsize=1.8,
            zorder=4 if on else 3,
        )
    _staircase(panel, comparison, front)
    if trade_off.y in COST:
        panel.set_yscale("log")
        style.plain_log_ticks(panel.yaxis)
    _name_points(panel, comparison, front, known)
    style.better(panel, up=trade_off.y.better == "higher")
    panel.margins(0.09)
    style.percent_axis(panel.xaxis)
    owner = "best attack's " if isinstance(trade_off.y, Score) else ""
    panel.set(xlabel=trade_off.x.axis_label, ylabel=f"{owner}{trade_off.y.axis_label}")
    _family_legend(made, looks)
    return made


def _staircase(panel: "Axes", comparison: Comparison, front: Front) -> None:
    """Join the arms on the front by the border of what they dominate."""
    points = sorted(
        front.trade_off.point(item)
        for item, on_front in zip(comparison.measured, front.on_front, strict=True)
        if on_front
    )
    x, y = [list(column) for column in zip(*points, strict=True)] if points else ([], [])
    panel.step(x, y, where="pre", color=style.MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)


def _name_points(panel: "Axes", comparison: Comparison, front: Front, known: Sequence[int]) -> None:
    """Name the arms on the front, and the reference, beside their marks."""
    named = [place for place in known if front.on_front[place] or place == comparison.reference]
    for turn, place in enumerate(named[:MAX_LABELS]):
        item = comparison.measured[place]
        look = {"xytext": (6, -11 if turn % 2 else 6), "va": "baseline", "color": style.INK}
        style.beside(panel, item.arm.label, front.trade_off.point(item), **look, zorder=6)


def matched_figure(comparison: Comparison) -> "Figure | None":
    """Draw the MSE of every family at the matched accuracies, a panel each."""
    shown = [found for found in comparison.matched if any(s.rank for s in found.ranked_defences)]
    if not shown:
        return None
    shown = shown[:4]
    most = max(sum(1 for s in found.ranked_defences if s.rank) for found in shown)
    made, axes = style.panels(len(shown), 2, 0.9 + ROW_IN * most, sharex=True)
    looks = _looks(comparison)
    for panel, found in zip(axes.flat, shown, strict=False):
        ranked = [ranked_defence for ranked_defence in found.ranked_defences if ranked_defence.rank]
        for at, ranked_defence in enumerate(ranked):
            shade, mark = looks[ranked_defence.family]
            style.mark(
                panel,
                ranked_defence.mse,
                at,
                fmt=mark,
                color=shade,
                markersize=6.5,
                fillstyle="none" if ranked_defence.like_best else "full",
                capsize=2.5,
                elinewidth=1.2,
            )
        style.rows(panel, [ranked_defence.family for ranked_defence in ranked])
        below = found.below_reference
        title = f"at {100 * found.accuracy:.1f} % accuracy"
        if below is not None:
            title += f" (reference − {100 * below:g})"  # noqa: RUF001
        panel.set_title(title)
    tops = [s.mse.high or s.mse.value or 0.0 for found in shown for s in found.ranked_defences]
    axes[0][0].set_xlim(0, 1.05 * max(tops))  # shared by all panels
    for panel in axes[-1]:
        panel.set_xlabel(f"{MSE}, higher hides more")
    return made


def _groups(comparison: Comparison, which: str) -> "Figure | None":
    """Draw the best attack's MSE by tier or device class."""
    groups: Sequence[Groups] = getattr(comparison, which)
    names = group_names(groups)
    if len(names) < 2:
        return None
    made, axes = style.figure(1, 1, 1.1 + ROW_IN * len(groups))
    panel = axes[0][0]
    for place, item in enumerate(groups):
        for index, name in enumerate(names):
            score = item.score(name)
            if score is None or score.attacked.scores["mse"].value is None:
                continue
            style.mark(
                panel,
                score.attacked.scores["mse"],
                style.within_row(place, index, len(names), 0.7),
                fmt=style.marker(index),
                color=style.colour(index),
                markersize=4.5,
                elinewidth=0.9,
                capsize=1.5,
                fillstyle="full" if score is item.weakest else "none",
            )
    style.rows(panel, [item.label for item in groups])
    panel.set_xlim(left=0)
    panel.set_xlabel(f"best attack's {MSE}, further left leaks more")
    style.arm_legend(made, names)
    return made


def _looks(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Return a colour and a mark for every family, distinct for up to 49 of them."""
    number = len(style.PALETTE)
    return {
        family: (style.colour(index), style.marker(index + index // number))
        for index, family in enumerate(families_of(comparison.measured))
    }


def _family_legend(made: "Figure", looks: dict[str, tuple[str, str]]) -> None:
    keys = [style.key(family, *look) for family, look in looks.items()]
    style.legend_above(made, keys, 5)


_INTERVALS = "95 % intervals are over seeds, or over devices where there is one seed. "
PLOTS: tuple[Plot[Comparison], ...] = (
    Plot(
        "pareto_accuracy_mse",
        "privacy",
        "Privacy against accuracy",
        "Each mark is an arm; its colour is the defence. Arms further right classify better, arms "
        "further up are reconstructed worse. Filled marks, joined by the dashed line, are on the "
        "Pareto front: no other arm is better in both. " + _INTERVALS,
        partial(_front, name="accuracy_mse"),
    ),
    Plot(
        "pareto_accuracy_ssim",
        "privacy",
        "Similarity against accuracy",
        "The same with SSIM, the similarity of reconstruction and image: lower hides more.",
        partial(_front, name="accuracy_ssim"),
    ),
    Plot(
        "matched",
        "matched",
        "Defences at matched accuracy",
        "MSE of the best attack where each defence's frontier meets the accuracy in the "
        "title. Open marks are not distinguishable from the best (the paired interval covers 0). "
        "Defences that do not reach the accuracy are left out. " + _INTERVALS,
        matched_figure,
    ),
    Plot(
        "pareto_accuracy_macs",
        "cost",
        "Computing against accuracy",
        "Mean over answered requests; a device of another tier counts with its own front-end.",
        partial(_front, name="accuracy_macs"),
    ),
    Plot(
        "pareto_accuracy_bytes",
        "cost",
        "Bytes against accuracy",
        "Serialised bytes that a device sends for one request, on average.",
        partial(_front, name="accuracy_bytes"),
    ),
    Plot(
        "pareto_accuracy_latency",
        "cost",
        "Latency against accuracy",
        "Median over answered requests, in virtual time.",
        partial(_front, name="accuracy_latency"),
    ),
    Plot(
        "tiers",
        "tiers",
        "Best attack by tier",
        "MSE of the best attack on each tier's victims; the filled mark of an arm is the tier "
        "that leaks most. Overlapping intervals do not show a difference.",
        partial(_groups, which="tiers"),
    ),
    Plot(
        "device_classes",
        "classes",
        "Best attack by device class",
        "The same, by device class.",
        partial(_groups, which="classes"),
    ),
)


def draw_all(comparison: Comparison) -> dict[str, bytes]:
    """Return the PNG bytes of every figure that has data, by name."""
    return draw_figures(PLOTS, comparison)
