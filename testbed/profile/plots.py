"""The figures of the profile: latency stacks, break-even uplink rates, savings."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from testbed.core.files import write_bytes
from testbed.pages import style
from testbed.profile.costs import Crossing, DeviceCost
from testbed.profile.tables import PAPERS_CLAIM, Saving
from testbed.report.plots.cost import PARTS as REPORTED_PARTS
from testbed.results import formats as numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = [part for part in REPORTED_PARTS if part[0] != "queue_ms"]
"""Column, label and colour; the devices of a profile do not share the cloud."""

RATIOS = {
    "macs": "MACs",
    "params": "params",
    "uplink_bytes": "bytes up",
    "compute_ms": "device time, median",
}
"""Title of the panel of each ratio of a saving."""

BAR = 0.8
SLOWEST_MBIT_S = 0.001
FASTEST_MBIT_S = 10_000.0


def latency_stacks(costs: list[DeviceCost], variants: list[str], link: str) -> "Figure":
    """Draw, for every device, the parts of one request's latency under each variant."""
    devices = list(dict.fromkeys(cost.device for cost in costs))
    of = {(cost.device, cost.variant): cost for cost in costs}
    made, axes = style.panels(len(devices), 3, 0.5 + 0.2 * len(variants), 0.5)
    for panel, device in zip(axes.flat, devices, strict=False):
        places = np.arange(len(variants))[::-1]
        left = np.zeros(len(variants))
        for column, label, colour in PARTS:
            widths = np.array([getattr(of[device, name], column) for name in variants])
            panel.barh(places, widths, BAR, left, color=colour, label=label)
            left += widths
        for place, name, total in zip(places, variants, left, strict=True):
            unfit = "" if of[device, name].feasible else ", does not fit"
            panel.text(
                total, place, f" {numbers.two_figures(total)}{unfit}", va="center", fontsize=7.5
            )
        panel.set_yticks(places, variants if panel in axes[:, 0] else [""] * len(variants))
        panel.set_title(device)
        panel.grid(axis="y", visible=False)
        panel.set_xlim(0, 1.65 * left.max())
        panel.locator_params(axis="x", nbins=4)
    made.supxlabel(
        f"ms per request over {link} (scales differ; downlink: half a round trip)", fontsize=9
    )
    labelled = axes[0][0].get_legend_handles_labels()
    made.legend(*labelled, loc="outside upper center", ncols=len(PARTS))
    return made


def break_even(costs: list[DeviceCost], variants: list[str], link_mbit_s: float) -> "Figure":
    """Draw the break-even uplink rate of each split against both alternatives.

    Left: above the mark, splitting is faster than the whole classifier on the device. Right: below
    the mark, it is faster than sending the raw image. No mark: never, or the front-end does not fit
    the device. A mark at the edge: always.
    """
    devices = list(dict.fromkeys(cost.device for cost in costs))
    of = {(cost.device, cost.variant): cost for cost in costs}
    made, axes = style.figure(1, 2, 1.1 + 0.27 * len(devices), sharey=True)
    panels = (
        ("faster_than_whole", "Faster than all on the device", "above", SLOWEST_MBIT_S),
        ("faster_than_raw", "Faster than sending the raw image", "below", FASTEST_MBIT_S),
    )
    for panel, (attribute, title, when, always_at) in zip(axes[0], panels, strict=True):
        for index, name in enumerate(variants):
            on_devices = [of[device, name] for device in reversed(devices)]
            rates = [
                _mark(getattr(cost, attribute), when, always_at) if cost.feasible else np.nan
                for cost in on_devices
            ]
            places = np.arange(len(devices)) + 0.07 * (len(variants) / 2 - index)
            look = {"color": style.colour(index), "marker": style.marker(index)}
            panel.plot(rates, places, linestyle="", markersize=5, label=name, **look)
        panel.axvline(link_mbit_s, color=style.INK, linewidth=0.8, linestyle=":")
        panel.set_xscale("log")
        panel.set_xlim(SLOWEST_MBIT_S / 1.5, FASTEST_MBIT_S * 1.5)
        style.plain_log_ticks(panel.xaxis)
        panel.set_title(f"{title}\n{when} this uplink rate", fontsize=9.5)
    axes[0][0].set_ylim(-0.6, len(devices) - 0.4)
    axes[0][0].set_yticks(range(len(devices)), list(reversed(devices)))
    made.supxlabel(
        "uplink Mbit/s (dotted: this link; no mark: never, or does not fit; at the edge: always)",
        fontsize=9,
    )
    made.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return made


def _mark(found: Crossing | None, when: str, always_at: float) -> float:
    """Return the place of the mark of a crossing, NaN without a mark."""
    if found is None or found.when not in (when, "always"):
        return np.nan
    if found.mbit_s is None:
        return always_at
    return min(max(found.mbit_s, SLOWEST_MBIT_S), FASTEST_MBIT_S)


def savings_bars(found: list[Saving]) -> "Figure | None":
    """Draw the cost of each alternative as a multiple of the funnel's, on a log axis."""
    from matplotlib.patches import Patch

    if not found:
        return None
    names = list(dict.fromkeys(saving.variant for saving in found))
    made, axes = style.figure(1, len(RATIOS), 1.2 + 0.3 * len(found), sharey=True)
    places = np.arange(len(found))[::-1]
    for panel, (ratio, heading) in zip(axes[0], RATIOS.items(), strict=True):
        values = [getattr(saving, ratio) for saving in found]
        lengths = [value - 1.0 if value else 0.0 for value in values]  # bars start at "equal"
        colours = [style.colour(names.index(saving.variant)) for saving in found]
        panel.barh(places, lengths, 0.7, 1.0, color=colours)
        for place, value in zip(places, values, strict=True):
            style.beside(
                panel,
                f"{value:.0f}x" if value >= 10 else f"{value:.2g}x" if value else "sends nothing",
                (value or 1.0, place),
                xytext=(3 if value >= 1 or not value else -3, 0),
                ha="left" if value >= 1 or not value else "right",
                fontsize=8,
                color=style.INK,
            )
        panel.axvline(1.0, color=style.INK, linewidth=0.8)
        known = [value for value in values if value]
        panel.set_xscale("log")
        panel.set_xlim(min(0.5, min(known) / 10), max(2.0, max(known) * 4))
        style.plain_log_ticks(panel.xaxis)
        panel.set_title(heading)
        panel.grid(axis="y", visible=False)
    axes[0][0].axvline(PAPERS_CLAIM, color=style.INK, linewidth=0.8, linestyle=":")
    axes[0][0].set_yticks(places, [saving.against for saving in found])
    made.supxlabel(
        "cost of the alternative on the left, as a multiple of the funnel's; log scale "
        "(dotted: the paper's 20x)",
        fontsize=9,
    )
    handles = [Patch(color=style.colour(index), label=name) for index, name in enumerate(names)]
    made.legend(handles=handles, loc="outside upper center", ncols=len(names))
    return made


def draw_all(
    folder: Path,
    costs: list[DeviceCost],
    found: list[Saving],
    stacked: list[str],
    splits: list[str],
    link: tuple[str, float],
) -> list[str]:
    """Draw every figure into ``folder`` and return the names of the files.

    Parameters
    ----------
    costs : of the devices to draw.
    stacked, splits : variants of the stacks, and of the break-even figure.
    link : name and median uplink rate.
    """
    with style.applied():
        figures = {
            "latency_stacks.png": latency_stacks(costs, stacked, link[0]),
            "break_even.png": break_even(costs, splits, link[1]),
            "savings.png": savings_bars(found),
        }
        drawn = {name: style.png(made) for name, made in figures.items() if made is not None}
    for name, content in drawn.items():
        write_bytes(folder / name, content)
    return list(drawn)
