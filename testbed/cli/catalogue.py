"""Tables and cards of the device catalogue and of the link profiles, with their sources."""

import argparse
import math
from typing import get_args

from rich.table import Table

from testbed.cli.tables import console, table
from testbed.core.errors import UserError
from testbed.core.files import csv_text
from testbed.core.registry import nearest
from testbed.fleet.catalogue import CatalogueDevice, load_catalogue
from testbed.fleet.cost_model import seconds_per_unit
from testbed.fleet.device_classes import DEVICE_CLASSES
from testbed.fleet.links import LinkProfile, Links, Quantity, RadioPower, load_links
from testbed.results.formats import count, significant, two_figures

CSV_FIELDS = (
    *("name", "title", "device_class", "ram_bytes", "precision", "backend", "threads"),
    *("rate_gmac_s", "power_active_w", "power_idle_w"),
    *("source_latency", "source_ram", "source_power"),
)


def rate_gmac_s(device: CatalogueDevice) -> float:
    """Return the calibrated rate in discounted GMAC per second (see ``fleet.cost_model``)."""
    return 1e-9 / seconds_per_unit(device)


def device_table(devices: list[CatalogueDevice]) -> Table:
    """Return a table with one row per device."""
    made = table(
        f"{len(devices)} devices",
        *("name", "<class", "RAM MiB", "precision", "threads", "<backend"),
        *("GMAC/s", "active W", "idle W", "<calibrated on"),
    )
    for device in devices:
        made.add_row(
            device.name,
            device.device_class,
            _memory(device.ram_mb),
            device.precision,
            count(device.threads),
            device.backend,
            two_figures(rate_gmac_s(device)),
            two_figures(device.power_active_w),
            two_figures(device.power_idle_w),
            f"{device.calibration_network} {significant(device.calibration_latency_ms)} ms",
        )
    return made


def _memory(ram_mb: float | None) -> str:
    """Return MiB; whole ones in full, since 1024 rounded to 1,020 names no size that is sold."""
    return count(ram_mb) if ram_mb and ram_mb.is_integer() else significant(ram_mb)


def device_card(device: CatalogueDevice) -> Table:
    """Return everything about one device, each number beside its source."""
    made = table(device.title, "property", "<value", "<source")
    made.add_row("class", device.device_class, "")
    made.add_row("memory, MiB", _memory(device.ram_mb), device.source_ram or "unpublished")
    made.add_row(
        f"{device.calibration_network}, {device.precision}, {device.backend}",
        f"{significant(device.calibration_latency_ms)} ms",
        device.source_latency,
    )
    made.add_row("threads", count(device.threads), device.source_latency)
    made.add_row(
        "calibrated rate",
        f"{two_figures(rate_gmac_s(device))} GMAC/s",
        f"derived from the latency ({device.latency_family} form)",
    )
    for what, value in (("active", device.power_active_w), ("idle", device.power_idle_w)):
        source = "unpublished" if value is None else device.source_power
        made.add_row(f"{what} power, W", significant(value), source)
    return made


def _spread(link: LinkProfile, quantity: Quantity) -> str:
    spread = link.spread(quantity)
    if spread.q25 is None or spread.q75 is None:
        return significant(spread.median)
    return f"{significant(spread.median)} ({significant(spread.q25)}-{significant(spread.q75)})"


def link_table(links: Links) -> Table:
    """Return a table with one row per link profile."""
    made = table(
        f"{len(links)} links (median, quartiles)",
        *("name", "<description", "up Mbit/s", "down Mbit/s", "round trip ms"),
        "<radio energy known",
    )
    for link in links:
        spreads = [_spread(link, quantity) for quantity in get_args(Quantity)]
        known = "yes" if link.radio_uj_per_byte is not None else " and ".join(_radios(link)) or "no"
        made.add_row(link.name, link.title, *spreads, known)
    return made


def link_card(link: LinkProfile) -> Table:
    """Return everything about one link profile, each number beside its source."""
    made = table(link.title, "property", "<value", "<source")
    made.add_row("uplink", f"{_spread(link, 'uplink_mbit_s')} Mbit/s", link.source_uplink)
    made.add_row("downlink", f"{_spread(link, 'downlink_mbit_s')} Mbit/s", link.source_downlink)
    made.add_row("round trip", f"{_spread(link, 'rtt_ms')} ms", link.source_rtt)
    if link.radio_uj_per_byte is not None:
        made.add_row("radio", f"{significant(link.radio_uj_per_byte)} uJ/byte", link.source_radio)
    for way, radio in _radios(link).items():
        power = f"{significant(radio.mw_per_mbit_s)} mW per Mbit/s + {radio.base_mw:.0f} mW"
        made.add_row(f"radio {way}", power, link.source_radio)
    return made


def _radios(link: LinkProfile) -> dict[str, RadioPower]:
    """Return the published powers of the radio, by direction."""
    ways = (("up", link.radio("uplink")), ("down", link.radio("downlink")))
    return {way: radio for way, radio in ways if radio is not None}


def chosen(devices: list[CatalogueDevice], options: argparse.Namespace) -> list[CatalogueDevice]:
    """Return the devices that pass the command line's filters."""
    words = (options.search or "").lower().split()

    def passes(device: CatalogueDevice) -> bool:
        text, ram_mb = f"{device.name} {device.title} {device.backend}".lower(), device.ram_mb
        return (
            (not options.device_class or device.device_class in options.device_class)
            and all(word in text for word in words)
            and (not options.with_power or device.power_active_w is not None)
            and (options.min_ram_mb is None or (ram_mb or 0.0) >= options.min_ram_mb)
            and (options.max_ram_mb is None or (ram_mb or math.inf) <= options.max_ram_mb)
        )

    return [device for device in devices if passes(device)]


def write_csv(devices: list[CatalogueDevice]) -> None:
    """Print the devices as CSV, with their sources."""
    rows = [
        {field: getattr(device, field, f"{rate_gmac_s(device):.3g}") for field in CSV_FIELDS}
        for device in devices
    ]
    print(csv_text(rows, CSV_FIELDS), end="")


def show(options: argparse.Namespace) -> None:
    """Print what the options choose."""
    for name in options.device_class or []:
        if name not in DEVICE_CLASSES:
            hint = nearest(name, list(DEVICE_CLASSES))
            raise UserError(
                f"--class: unknown class '{name}'{hint}; known: {', '.join(DEVICE_CLASSES)}"
            )
    if options.links:
        links = load_links()
        name = options.name
        console().print(link_card(links.named(name)) if name else link_table(links))
        return
    catalogue = load_catalogue(*options.catalogue)
    if options.name:
        console().print(device_card(catalogue.named(options.name)))
        return
    devices = chosen(list(catalogue), options)
    if options.csv:
        write_csv(devices)
    else:
        console().print(device_table(devices))
