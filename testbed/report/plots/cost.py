"""Figures of what a request costs: latency, its parts, bytes and energy (all simulated)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from testbed.pages import style
from testbed.results import formats as numbers
from testbed.results.reading import Results, Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = (
    ("compute_ms", "device computes", "#332288"),
    ("uplink_ms", "uplink", "#DDCC77"),
    ("queue_ms", "waits", "#BBBBBB"),
    ("cloud_ms", "cloud computes", "#117733"),
    ("downlink_ms", "downlink", "#AA4499"),
)
"""Column, label and colour (Tol's muted scheme, kept apart from the arms' colours)."""
MAX_CURVE_POINTS = 2000
LOG_FROM_RATIO = 50.0
"""Bars whose lengths differ by more than this are drawn on a log axis."""


def _answered(results: Results, arm: str) -> Rows:
    return results.requests.where(arm=arm, status="answered")


def latency_distribution(results: Results) -> "Figure | None":
    """Draw the empirical distribution of latency per arm on a log axis."""
    made, axes = style.figure(1, 1, 3.1)
    panel = axes[0][0]
    drawn = False
    for index, arm in enumerate(results.arms):
        latency = _answered(results, arm.name)["latency_ms"]
        latency = np.sort(latency[latency > 0])
        if latency.size == 0:
            continue
        drawn = True
        share = np.arange(1, latency.size + 1) / latency.size
        if latency.size > MAX_CURVE_POINTS:
            keep = np.linspace(0, latency.size - 1, MAX_CURVE_POINTS).astype(int)
            latency, share = latency[keep], share[keep]
        look: dict[str, Any] = {"color": style.colour(index), "linestyle": style.dash(index)}
        panel.step(latency, share, where="post", label=arm.name, **look)
        marks = ((arm.serving.latency_ms.median, 0.5, "o"), (arm.serving.latency_ms.p95, 0.95, "s"))
        for at, quantile, mark in marks:
            if at is not None:
                panel.plot(
                    [at], [quantile], mark, color=style.colour(index), markeredgecolor="white"
                )
    if not drawn:
        return None
    panel.set(
        xscale="log", xlabel="latency (ms, log scale)", ylabel="share of requests", ylim=(0, 1.02)
    )
    style.percent_axis(panel.yaxis)
    style.plain_log_ticks(panel.xaxis)
    panel.legend(loc="upper left")
    return made


def latency_parts(results: Results) -> "Figure | None":
    """Draw mean latency and the share of each part, per device class and arm."""
    bars = _mean_parts(results)
    if not bars:
        return None
    arms = len(results.arms)
    classes = list(dict.fromkeys(device_class for device_class, _, _ in bars))
    made, axes = style.figure(
        1, 2, 1.2 + 0.2 * len(bars), sharey=True, gridspec_kw={"width_ratios": [1, 1.5]}
    )
    left, right = axes[0]
    thickness = 0.8 / arms
    for device_class, index, means in bars:
        y = classes.index(device_class) + (index - (arms - 1) / 2) * thickness
        total = float(means.sum())
        mark = style.marker(index)
        left.plot([total], [y], mark, color=style.colour(index), markersize=5)
        style.beside(left, numbers.milliseconds(total), (total, y), fontsize=7)
        start = 0.0
        for mean, (_, _, shade) in zip(means, PARTS, strict=True):
            share = float(mean) / total
            right.barh(y, share, left=start, height=thickness * 0.86, color=shade)
            start += share
        right.plot([-0.012], [y], mark, color=style.colour(index), markersize=3.5, clip_on=False)
    left.set(xscale="log", xlabel="mean latency (ms, log scale)")
    left.set_xlim(right=left.get_xlim()[1] * 3)
    style.plain_log_ticks(left.xaxis)
    style.rows(left, classes)
    _shares(right)
    style.arm_legend(made, [arm.name for arm in results.arms])
    return made


def _shares(panel: "Axes") -> None:
    from matplotlib.patches import Patch

    panel.set(xlabel="share of mean latency", xlim=(-0.02, 1))
    style.percent_axis(panel.xaxis)
    panel.grid(visible=False)
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    panel.legend(
        handles=[Patch(color=shade, label=label) for _, label, shade in PARTS],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        handlelength=1,
        columnspacing=1,
        borderpad=0,
    )


def _mean_parts(results: Results) -> "list[tuple[str, int, np.ndarray]]":
    """Return (device class, arm index, mean ms of each part), classes in the fleet's order."""
    fleet = results.summary.fleet
    known = [entry.device_class for entry in fleet.device_classes]
    found: dict[str, list[tuple[str, int, np.ndarray]]] = {name: [] for name in known}
    for index, arm in enumerate(results.arms):
        rows = _answered(results, arm.name)
        for device_class in dict.fromkeys(rows["device_class"]):
            of_class = rows.where(device_class=device_class)
            parts = np.stack([of_class[column] for column, _, _ in PARTS])
            means = np.nan_to_num(parts).mean(axis=1)
            if means.sum() > 0:
                found.setdefault(device_class, []).append((device_class, index, means))
    return [bar for bars in found.values() for bar in bars]


def byte_budget(results: Results) -> "Figure | None":
    """Draw uplink and downlink bytes per request and of the whole training, per arm."""
    arms = results.arms
    per_request = [
        (arm.serving.uplink_bytes_per_request, arm.serving.downlink_bytes_per_request)
        for arm in arms
    ]
    whole_training = [(arm.training.uplink_bytes, arm.training.downlink_bytes) for arm in arms]
    panels: list[tuple[str, Sequence[tuple[float | None, float | None]]]] = [
        (title, pairs)
        for title, pairs in (
            ("One request", per_request),
            ("Whole training", whole_training),
        )
        if any(value for pair in pairs for value in pair)
    ]
    if not panels:
        return None
    made, axes = style.figure(1, len(panels), 0.9 + 0.55 * len(arms), sharey=True)
    for (title, pairs), panel in zip(panels, axes[0], strict=True):
        _byte_bars(panel, title, pairs)
    style.rows(axes[0][0], [arm.name for arm in arms])
    return made


def _byte_bars(
    panel: "Axes", title: str, pairs: Sequence[tuple[float | None, float | None]]
) -> None:
    known = [value for pair in pairs for value in pair if value]
    factor, unit = next(
        ((f, u) for f, u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if max(known) >= f), (1.0, "B")
    )
    log = max(known) / min(known) > LOG_FROM_RATIO
    start = 10 ** np.floor(np.log10(min(known) / factor) - 0.1) if log else 0.0
    for index, pair in enumerate(pairs):
        for row, (value, name) in enumerate(zip(pair, ("up", "down"), strict=True)):
            if not value:
                continue
            y = index + (row - 0.5) * 0.38
            panel.barh(
                y,
                value / factor - start,
                left=start,
                height=0.34,
                color=style.colour(index) if name == "up" else style.pale(style.colour(index)),
            )
            text = f"{name} {numbers.size(value)}"
            style.beside(panel, text, (value / factor, y), xytext=(3, 0))
    scale = "log" if log else "linear"
    panel.set(title=title, xscale=scale, xlabel=f"{unit}{', log scale' if log else ''}")
    top = max(known) / factor
    panel.set_xlim(start or None, top * (top / start) ** 0.4 if log else top * 1.4)
    if log:
        style.plain_log_ticks(panel.xaxis)
    panel.grid(visible=False, axis="y")


def energy(results: Results) -> "Figure | None":
    """Draw the energy of a request per device class and arm; unknown ones are named so."""
    arms = results.arms
    classes = list(dict.fromkeys(e.device_class for arm in arms for e in arm.by_device_class))
    values = [
        (classes.index(entry.device_class), index, entry.energy_mj_per_request)
        for index, arm in enumerate(arms)
        for entry in arm.by_device_class
        if entry.requests != 0
    ]
    if not any(value for _, _, value in values):
        return None
    height = 1.0 + len(classes) * max(0.28, 0.14 * len(arms))
    made, axes = style.figure(1, 1, height)
    panel = axes[0][0]
    for row, index, value in values:
        if value:
            y = style.within_row(row, index, len(arms), 0.26)
            mark = style.marker(index)
            panel.plot([value], [y], mark, color=style.colour(index), markersize=5.5)
    panel.set(xscale="log", xlabel="energy per request (mJ, log scale)")
    for row in range(len(classes)):
        if not any(value for at, _, value in values if at == row):
            served = any(at == row for at, _, _ in values)
            text = "unknown: no power figure published" if served else "served no request"
            style.beside(
                panel,
                text,
                (0, row),
                xycoords=("axes fraction", "data"),
                fontsize=8,
                style="italic",
            )
    style.plain_log_ticks(panel.xaxis)
    style.rows(panel, classes)
    style.arm_legend(made, [arm.name for arm in arms])
    return made
