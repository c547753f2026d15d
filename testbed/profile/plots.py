"""The figures of the profile: latency stacks, break-even uplink rates, savings."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from testbed.pages import style
from testbed.profile.costs import Crossing, DeviceCost
from testbed.profile.tables import PAPERS_CLAIM, Saving
from testbed.results import formats as numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = (
    ("compute_ms", "device computes", "#332288"),
    ("uplink_ms", "uplink", "#DDCC77"),
    ("cloud_ms", "cloud computes", "#117733"),
    ("downlink_ms", "answer", "#AA4499"),
)
"""Column, label and colour, the same as in the report of a run."""

BAR = 0.8
SLOWEST_MBIT_S = 0.001
FASTEST_MBIT_S = 10_000.0


def latency_stacks(costs: list[DeviceCost], variants: list[str], link: str) -> "Figure":
    """Draw, for every device, the parts of one request's latency under each variant."""
    devices = list(dict.fromkeys(cost.device for cost in costs))
    of = {(cost.device, cost.variant): cost for cost in costs}
    columns = 3
    rows = -(-len(devices) // columns)
    made, axes = style.figure(rows, columns, 0.5 + rows * (0.5 + 0.2 * len(variants)))
    panels = list(np.ravel(axes))
    for panel, device in zip(panels, devices, strict=False):
        places = np.arange(len(variants))[::-1]
        left = np.zeros(len(variants))
        for column, label, colour in PARTS:
            widths = np.array([getattr(of[device, name], column) for name in variants])
            panel.barh(places, widths, BAR, left, color=colour, label=label)
            left += widths
        for place, name, total in zip(places, variants, left, strict=True):
            unfit = "" if of[device, name].feasible else ", does not fit"
            panel.text(
                total, place, f" {numbers.significant(total, 2)}{unfit}", va="center", fontsize=7.5
            )
        panel.set_yticks(places, variants if panel in panels[::columns] else [""] * len(variants))
        panel.set_title(device)
        panel.grid(axis="y", visible=False)
        panel.set_xlim(0, 1.65 * left.max())
        panel.locator_params(axis="x", nbins=4)
    for panel in panels[len(devices) :]:
        panel.set_visible(False)
    made.supxlabel(
        f"ms per request over {link} (scales differ; answer: half a round trip)", fontsize=9
    )
    handles, labels = panels[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside upper center", ncols=len(PARTS))
    return made


def break_even(costs: list[DeviceCost], variants: list[str], link_mbit_s: float) -> "Figure":
    """Draw the break-even uplink rate of each split against both alternatives.

    Left: above the mark, splitting is faster than the whole classifier on the device. Right: below
    the mark, it is faster than sending the raw image. No mark: never, or the front-end does not fit
    the device. A mark at the edge: always.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    devices = list(dict.fromkeys(cost.device for cost in costs))
    of = {(cost.device, cost.variant): cost for cost in costs}
    made, axes = style.figure(1, 2, 1.1 + 0.27 * len(devices), sharey=True)
    panels = (
        ("faster_than_whole", "Faster than all on the device", "above", SLOWEST_MBIT_S),
        ("faster_than_raw", "Faster than sending the raw image", "below", FASTEST_MBIT_S),
    )
    for panel, (attribute, title, when, always_at) in zip(axes[0], panels, strict=True):
        for index, name in enumerate(variants):
            marks = []
            for place, device in enumerate(reversed(devices)):
                cost = of[device, name]
                rate = _mark(getattr(cost, attribute), when, always_at) if cost.feasible else None
                if rate is not None:
                    marks.append((rate, place + 0.07 * (len(variants) / 2 - index)))
            look = {"color": style.colour(index), "marker": style.MARKERS[index % 7]}
            xs, ys = ([mark[axis] for mark in marks] for axis in (0, 1))
            panel.plot(xs, ys, linestyle="", markersize=5, label=name, **look)
        panel.axvline(link_mbit_s, color=style.INK, linewidth=0.8, linestyle=":")
        panel.set_xscale("log")
        panel.set_xlim(SLOWEST_MBIT_S / 1.5, FASTEST_MBIT_S * 1.5)
        panel.xaxis.set_major_formatter(FuncFormatter(_plain_rate))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_title(f"{title}\n{when} this uplink rate", fontsize=9.5)
    axes[0][0].set_ylim(-0.6, len(devices) - 0.4)
    axes[0][0].set_yticks(range(len(devices)), list(reversed(devices)))
    made.supxlabel(
        "uplink Mbit/s (dotted: this link; no mark: never, or does not fit; at the edge: always)",
        fontsize=9,
    )
    handles, labels = axes[0][0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside upper center", ncols=4)
    return made


def _plain_rate(mbit_s: float, _: int) -> str:
    return f"{mbit_s:,.0f}" if mbit_s >= 1.0 else f"{mbit_s:g}"


def _mark(found: Crossing | None, when: str, always_at: float) -> float | None:
    """Return the place of the mark of a crossing, None without a mark."""
    if found is None or found.when not in (when, "always"):
        return None
    if found.mbit_s is None:
        return always_at
    return min(max(found.mbit_s, SLOWEST_MBIT_S), FASTEST_MBIT_S)


def savings_bars(found: list[Saving]) -> "Figure | None":
    """Draw the cost of each alternative as a multiple of the funnel's, on a log axis."""
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter, NullFormatter

    if not found:
        return None
    names = list(dict.fromkeys(saving.variant for saving in found))
    columns = ("MACs", "params", "bytes up", "device time")
    made, axes = style.figure(1, len(columns), 1.2 + 0.3 * len(found), sharey=True)
    places = np.arange(len(found))[::-1]
    for panel, heading in zip(axes[0], columns, strict=True):
        values = [_saving(saving, heading) for saving in found]
        lengths = [value - 1.0 if value else 0.0 for value in values]  # bars start at "equal"
        colours = [style.colour(names.index(saving.variant)) for saving in found]
        panel.barh(places, lengths, 0.7, 1.0, color=colours)
        for place, value in zip(places, values, strict=True):
            panel.annotate(
                f"{value:.0f}x" if value >= 10 else f"{value:.2g}x" if value else "sends nothing",
                (value or 1.0, place),
                xytext=(3 if value >= 1 or not value else -3, 0),
                textcoords="offset points",
                ha="left" if value >= 1 or not value else "right",
                va="center",
                fontsize=8,
            )
        panel.axvline(1.0, color=style.INK, linewidth=0.8)
        known = [value for value in values if value]
        panel.set_xscale("log")
        panel.set_xlim(min(0.5, min(known) / 10), max(2.0, max(known) * 4))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_title("device time, median" if heading == "device time" else heading)
        panel.grid(axis="y", visible=False)
    axes[0][0].axvline(PAPERS_CLAIM, color=style.INK, linewidth=0.8, linestyle=":")
    axes[0][0].set_yticks(places, [f"{saving.against}" for saving in found])
    made.supxlabel(
        "cost of the alternative on the left, as a multiple of the funnel's; log scale "
        "(dotted: the paper's 20x)",
        fontsize=9,
    )
    handles = [Patch(color=style.colour(index), label=name) for index, name in enumerate(names)]
    made.legend(handles=handles, loc="outside upper center", ncols=len(names))
    return made


def _saving(saving: Saving, heading: str) -> float:
    values = {
        "MACs": saving.macs,
        "params": saving.params,
        "bytes up": saving.uplink_bytes,
        "device time": saving.compute_ms or 0.0,
    }
    return values[heading]


def draw_all(
    folder: Path,
    costs: list[DeviceCost],
    found: list[Saving],
    stacked: list[str],
    splits: list[str],
    link: tuple[str, float],
) -> list[Path]:
    """Draw every figure into ``folder`` and return the files.

    Parameters
    ----------
    costs : of the devices to draw.
    stacked, splits : variants of the stacks, and of the break-even figure.
    link : name and median uplink rate.
    """
    written = []
    with style.applied():
        figures = {
            "latency_stacks": latency_stacks(costs, stacked, link[0]),
            "break_even": break_even(costs, splits, link[1]),
            "savings": savings_bars(found),
        }
        for name, made in figures.items():
            if made is not None:
                written.append(folder / f"{name}.png")
                made.savefig(written[-1], metadata={"Software": None})
    return written
