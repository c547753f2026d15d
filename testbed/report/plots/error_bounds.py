"""Figures of attacks against bounds and anchors, and of success by the number of intercepts."""

from typing import TYPE_CHECKING

from testbed.pages import style
from testbed.results.figures import FIGURES
from testbed.results.findings import anchor_lines, readable, weakest_bound
from testbed.results.reading import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def attacks_and_bounds(results: Results) -> "Figure | None":
    """Draw every attack's MSE, a row per arm, with anchors and, where there is one, a bound."""
    arms = [(index, arm) for index, arm in enumerate(results.arms) if arm.rebuilding]
    if not arms:
        return None
    made, axes = style.figure(1, 1, 1.2 + 0.62 * len(arms))
    panel = axes[0][0]
    for row, (index, arm) in enumerate(arms):
        for attack in arm.rebuilding:
            panel.plot([attack.mse], [row], "o", color=style.colour(index), markersize=5)
            for item in attack.smoothed:
                look = {"color": style.colour(index), "fillstyle": "none", "markersize": 5}
                panel.plot([item.mse], [row + 0.22], "o", **look)
        best = min(arm.rebuilding, key=lambda attack: attack.mse or 0.0)
        above = {"xytext": (0, 6), "ha": "center", "va": "baseline", "fontsize": 8}
        style.beside(panel, readable(best.attack), (best.mse or 0.0, row), **above)
        bound = weakest_bound(arm)
        for level in bound.levels if bound is not None and not bound.reason else []:
            if not level.mse:
                continue
            once = level.replays in (None, 1)
            panel.plot([level.mse], [row + 0.22], "|", color=style.INK, markersize=12)
            text = "error bound" if once else f"{level.replays} releases"
            below = above | {"xytext": (0, -14), "color": style.INK}
            style.beside(panel, text, (level.mse, row + 0.22), **below)
    panel.set(xscale="log", xlabel=FIGURES["mse"].axis_label)
    for line in anchor_lines(results.summary):
        if line.arm is None:
            style.reference_line(panel, line.at, readable(line.name), vertical=True)
    style.plain_log_ticks(panel.xaxis)
    style.rows(panel, [arm.name for _, arm in arms])
    panel.set_ylim(len(arms) - 0.4, -0.6)
    return made


def by_intercepts(results: Results) -> "Figure | None":
    """Draw the error of attacks that learn from intercepts over how many they had."""
    series = {
        (index, name): sorted(
            (attack.victims, attack.mse)
            for attack in arm.attacks
            if attack.attack == name and attack.learns_from_intercepts and attack.victims
        )
        for index, arm in enumerate(results.arms)
        for name in dict.fromkeys(attack.attack for attack in arm.attacks)
    }
    series = {key: points for key, points in series.items() if len(points) > 1}
    if not series:
        return None
    made, axes = style.figure(1, 1, 3.0)
    panel = axes[0][0]
    for (index, name), points in series.items():
        label = f"{results.arms[index].name}, {readable(name)}"
        counts, errors = zip(*points, strict=True)
        panel.plot(counts, errors, "o-", color=style.colour(index), label=label)
    for line in anchor_lines(results.summary):
        if line.arm is None:
            style.reference_line(panel, line.at, readable(line.name))
    panel.set(xlabel="features intercepted", ylabel=FIGURES["mse"].axis_label)
    panel.set_ylim(bottom=0.0)
    made.legend(loc="outside upper left", ncols=min(3, len(series)))
    return made
