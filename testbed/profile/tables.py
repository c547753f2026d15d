"""The tables of the profile: sizes, savings against the alternatives, and costs by device."""

import re
from dataclasses import dataclass

from rich.table import Table

from testbed.cli.tables import table
from testbed.fleet.catalogue import CatalogueDevice
from testbed.profile.costs import Crossing, DeviceCost
from testbed.profile.variants import Variant
from testbed.results import formats as numbers

PAPERS_CLAIM = 20.0
CLAIM_TOLERANCE = 0.06
FUNNEL = "siftfunnel"
SERVERS = "server-desktop"


@dataclass(frozen=True)
class Saving:
    """How much smaller the device half of one variant is than that of another."""

    variant: str
    against: str
    macs: float
    params: float
    uplink_bytes: float
    compute_ms: float | None


def sizes_table(variants: list[Variant], image_shape: tuple[int, int, int]) -> Table:
    """Return the exact sizes of the device half of every variant."""
    shape = "x".join(str(size) for size in image_shape)
    made = table(
        f"Edge sizes for images of {shape}",
        *("variant", "params", "MACs", "3x3 share", "moved", "peak", "sent up", "cloud MACs"),
        "<defences at this cost",
    )
    for variant in variants:
        edge = variant.edge
        made.add_row(
            variant.name,
            f"{edge.params:,}" if edge else "-",
            f"{edge.macs / 1e6:.2f} M" if edge else "-",
            f"{edge.macs_conv3x3s1 / max(edge.macs, 1):.0%}" if edge else "-",
            f"{edge.activation_elements / 1e6:.2f} M" if edge else "-",
            f"{edge.peak_activation_elements:,}" if edge else "-",
            f"{variant.uplink_bytes:,} B" if variant.uplink_bytes else "-",
            f"{variant.cloud.macs / 1e6:.1f} M" if variant.cloud else "-",
            ", ".join(variant.defences),
        )
    made.caption = "moved and peak: activation elements read and written, and alive at once"
    return made


def savings(variants: list[Variant], costs: list[DeviceCost]) -> list[Saving]:
    """Compare every SiftFunnel front-end with the other edges of its own family.

    The ratio of times is the median over the devices; None without costs.
    """
    found = []
    for variant in variants:
        if not variant.name.startswith(FUNNEL) or variant.edge is None:
            continue
        family = variant.name.removeprefix(FUNNEL).strip("_ ").split()[0]
        for other in variants:
            same = re.search(rf"\b{re.escape(family)}\b", other.name.replace("_", " "))
            if other is variant or other.edge is None or not same or FUNNEL in other.name:
                continue
            found.append(
                Saving(
                    variant.name,
                    other.name,
                    other.edge.macs / variant.edge.macs,
                    other.edge.params / variant.edge.params,
                    other.uplink_bytes / variant.uplink_bytes,
                    _median_ratio(costs, other.name, variant.name),
                )
            )
    return found


def _median_ratio(costs: list[DeviceCost], above: str, below: str) -> float | None:
    times = {(cost.device, cost.variant): cost.compute_ms for cost in costs}
    ratios = sorted(
        times[device, above] / times[device, below]
        for device, variant in times
        if variant == below and (device, above) in times
    )
    return ratios[len(ratios) // 2] if ratios else None


def savings_table(found: list[Saving]) -> Table:
    """Return the cost of each alternative as a multiple of the funnel's."""
    made = table(
        "Cost of the alternative, as a multiple of the front-end's",
        *("front-end", "<against", "MACs", "params", "bytes up", "device time (median)"),
    )
    for saving in found:
        made.add_row(
            saving.variant,
            saving.against,
            f"{saving.macs:.1f}x",
            f"{saving.params:.1f}x",
            f"{saving.uplink_bytes:.1f}x" if saving.uplink_bytes else "-",
            "-" if saving.compute_ms is None else f"{saving.compute_ms:.2g}x",
        )
    return made


def claim_sentences(found: list[Saving]) -> list[str]:
    """Return for which comparisons the paper's "almost 20x" holds."""
    lowest, highest = PAPERS_CLAIM * (1 - CLAIM_TOLERANCE), PAPERS_CLAIM * (1 + CLAIM_TOLERANCE)
    hits = [saving for saving in found if lowest <= saving.macs <= highest]
    others = [saving for saving in found if saving not in hits]
    sentences = [
        f'"almost 20x" fewer MACs holds for {saving.variant} against {saving.against}: '
        f"{saving.macs:.1f}x."
        for saving in hits
    ]
    if not hits:
        sentences.append('"almost 20x" fewer MACs holds for none of these comparisons.')
    if others:
        listed = "; ".join(
            f"{saving.variant} against {saving.against} {saving.macs:.1f}x" for saving in others
        )
        sentences.append(f"It does not hold for: {listed}.")
    slower = [s for s in found if s.compute_ms is not None and s.compute_ms < s.macs / 2]
    if slower:
        sentences.append(
            "Time decreases less than MACs: attention moves activations, which MACs do not count."
        )
    return sentences


def bytes_sentence(variants: list[Variant]) -> str | None:
    """Return which features are not smaller than the image itself; None if all are smaller."""
    raw = next((variant for variant in variants if variant.kind == "raw"), None)
    if raw is None:
        return None
    larger = [v.name for v in variants if v.kind == "split" and v.uplink_bytes >= raw.uplink_bytes]
    if not larger:
        return None
    return (
        f"The image itself has {raw.uplink_bytes:,} B at 8 bits, uncompressed. The float32 "
        f"features of {', '.join(larger)} are not smaller: splitting there does not save bandwidth."
    )


def show_crossing(found: Crossing | None) -> str:
    """Return a crossing in words."""
    if found is None:
        return "-"
    if found.mbit_s is None:
        return found.when
    return f"{found.when} {numbers.two_figures(found.mbit_s)}"


def devices_table(costs: list[DeviceCost], variants: list[str]) -> Table:
    """Return device time of each chosen variant on each device, infeasible ones marked."""
    headings = [name.replace("_", " ") for name in variants]  # wraps at spaces only
    made = table("Device compute in ms per image", "device", "<class", *headings)
    for column, heading in zip(made.columns[2:], headings, strict=True):
        column.min_width = max(map(len, heading.split()))
    by_device: dict[str, dict[str, DeviceCost]] = {}
    for cost in costs:
        by_device.setdefault(cost.device, {})[cost.variant] = cost
    for device, of in by_device.items():
        cells = [
            numbers.two_figures(of[name].compute_ms) + ("" if of[name].feasible else "!")
            for name in variants
        ]
        made.add_row(device, next(iter(of.values())).device_class, *cells)
    made.caption = "by the cost model, good to a factor of 1.2 to 1.5; !: does not fit the memory"
    return made


def variant_table(costs: list[DeviceCost], variant: str, link: str) -> Table:
    """Return everything about one variant, one row per device."""
    made = table(
        f"{variant} over {link}",
        *(
            "device",
            "memory needed",
            "of usable",
            "device ms",
            "2nd estimate",
            "ratio",
            "uplink ms",
        ),
        *(
            "uplink ms",
            "cloud ms",
            "total ms",
            "energy mJ",
            "beats raw at Mbit/s",
            "beats whole at Mbit/s",
        ),
    )
    for cost in costs:
        if cost.variant != variant:
            continue
        usable = "?" if cost.budget_bytes is None else numbers.size(cost.budget_bytes)
        made.add_row(
            cost.device,
            numbers.size(cost.needed_bytes),
            usable if cost.feasible else f"{usable} (no)",
            numbers.two_figures(cost.compute_ms),
            numbers.two_figures(cost.second_ms),
            "-" if cost.disagreement is None else f"{cost.disagreement:.1f}x",
            *map(
                numbers.two_figures,
                (cost.uplink_ms, cost.cloud_ms, cost.total_ms, cost.total_mj),
            ),
            show_crossing(cost.faster_than_raw),
            show_crossing(cost.faster_than_whole),
        )
    return made


def representatives(devices: list[CatalogueDevice]) -> list[CatalogueDevice]:
    """Return the first device of every class, with two of the most diverse classes; no servers."""
    chosen: dict[str, list[CatalogueDevice]] = {}
    for device in devices:
        if device.device_class == SERVERS:
            continue
        of_class = chosen.setdefault(device.device_class, [])
        if len(of_class) < (2 if device.device_class in ("mcu", "sbc") else 1):
            of_class.append(device)
    return [device for of_class in chosen.values() for device in of_class]
