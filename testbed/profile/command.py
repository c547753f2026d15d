"""The whole profile: its checks, tables, plots and files."""

import argparse
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from testbed.cli.tables import console
from testbed.core.errors import UserError
from testbed.core.files import check_folder_for_output, csv_text, write_text
from testbed.core.registry import nearest
from testbed.fleet.calibration.second_estimate import HostRates, host_cpu_ms
from testbed.fleet.catalogue import CatalogueDevice, load_catalogue
from testbed.fleet.links import load_links
from testbed.profile.costs import DeviceCost, SecondEstimate, device_costs
from testbed.profile.plots import draw_all
from testbed.profile.tables import (
    bytes_sentence,
    claim_sentences,
    devices_table,
    representatives,
    savings,
    savings_table,
    sizes_table,
    variant_table,
)
from testbed.profile.variants import Variant, all_variants

TABLES = ("profile.csv", "profile.parquet", "sizes.csv")
MOST_DRAWN = 9


def _check(options: argparse.Namespace) -> None:
    size = options.image_size
    if not 16 <= size <= 512 or size % 16:
        raise UserError(f"--image-size: must be a multiple of 16 from 16 to 512, got {size}")
    if not 1 <= options.channels <= 16:
        raise UserError(f"--channels: must be 1 to 16, got {options.channels}")
    if options.classes < 2:
        raise UserError(f"--classes: must be at least 2, got {options.classes}")
    check_folder_for_output(options.out)
    if not options.force and any((options.out / name).exists() for name in TABLES):
        raise UserError(f"{options.out}: holds a profile already; give --force to replace it")


def second_estimator(image_shape: tuple[int, int, int]) -> SecondEstimate:
    """Return a function that scales this host's CPU time of a variant to a device."""
    rates = HostRates()
    host_ms: dict[str, float] = {}

    def estimate(device: CatalogueDevice, variant: Variant) -> float | None:
        if variant.module is None:
            return None
        if variant.name not in host_ms:
            host_ms[variant.name] = host_cpu_ms(variant.module, image_shape)
        return rates.second_estimate_ms(device, host_ms[variant.name])

    return estimate


def write_tables(folder: Path, costs: list[DeviceCost], variants: list[Variant]) -> None:
    """Write the costs as CSV and parquet, and the sizes as CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [cost.flat() for cost in costs]
    as_csv, as_parquet, sizes = (folder / name for name in TABLES)
    write_text(as_csv, csv_text(rows))
    with as_parquet.open("wb") as file:
        pq.write_table(pa.Table.from_pylist(rows), file)
    write_text(sizes, csv_text(map(_size_row, variants)))


def _size_row(variant: Variant) -> dict[str, Any]:
    row: dict[str, Any] = {
        "variant": variant.name,
        "kind": variant.kind,
        "defences": ", ".join(variant.defences),
        "uplink_bytes": variant.uplink_bytes,
    }
    for half, stats in (("edge", variant.edge), ("cloud", variant.cloud)):
        for name in ("macs", "macs_conv3x3s1", "params", "activation_elements"):
            row[f"{half}_{name}"] = getattr(stats, name, None)
    row["edge_peak_activation_elements"] = getattr(variant.edge, "peak_activation_elements", None)
    return row


def _chosen(variants: list[Variant]) -> tuple[list[str], list[str]]:
    """Return the variants to draw, and the splits among them.

    All alternatives, and the smallest splits up to ``MOST_DRAWN`` variants.
    """

    def weight(variant: Variant) -> tuple[bool, bool, int]:
        """Order variants: alternatives, funnels, then others; each by their size."""
        is_funnel = variant.name.startswith("siftfunnel")
        return variant.kind == "split", not is_funnel, variant.edge.macs if variant.edge else 0

    kept = sorted(variants, key=weight)[:MOST_DRAWN]
    names = [variant.name for variant in variants if variant in kept]
    return names, [v.name for v in variants if v.kind == "split" and v in kept]


def profile(options: argparse.Namespace) -> None:
    """Measure every variant on every device; print and write the tables and plots."""
    out = console()
    _check(options)
    catalogue = load_catalogue(*options.catalogue)
    link = load_links().named(options.link, "--link")
    cloud = catalogue.named(options.cloud, "--cloud")
    every = list(catalogue)
    shown = [catalogue.named(name, "--device") for name in options.device]
    shown = shown or (every if options.all else representatives(every))
    image_shape = (options.channels, options.image_size, options.image_size)
    variants = all_variants(image_shape, options.classes)
    known = [variant.name for variant in variants]
    for name in options.variant:
        if name not in known:
            hint = nearest(name, known)
            raise UserError(f"--variant: unknown '{name}'{hint}; known: {', '.join(known)}")
    estimate = None if options.no_host else second_estimator(image_shape)
    costs = device_costs(variants, every, link, cloud, estimate)
    plain = [variant for variant in variants if not variant.defended]
    names = {device.name for device in shown}
    of_shown = [cost for cost in costs if cost.device in names]
    found = savings(plain, costs)
    drawn, splits = _chosen(plain)
    out.print(sizes_table(plain, image_shape))
    out.print(savings_table(found))
    for sentence in (*claim_sentences(found), bytes_sentence(plain)):
        if sentence:
            out.print(sentence, highlight=False)
    on_device = [variant.name for variant in plain if variant.edge]
    out.print(devices_table(of_shown, on_device))
    for name in options.variant:
        out.print(variant_table(of_shown, name, link.name))
    write_tables(options.out, costs, variants)
    plots = draw_all(options.out, of_shown, found, drawn, splits, (link.name, link.uplink_mbit_s))
    files = ", ".join([*TABLES, *plots])
    out.print(f"{options.out}: {files} ({len(costs)} rows)", highlight=False)
