"""Draws a fleet from a scenario's mix: devices, their links and rates."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.core import seeds
from testbed.fleet.catalogue import Catalogue, CatalogueDevice
from testbed.fleet.links import LinkProfile, Links, Quantity
from testbed.scenario.schema import FleetSection

Floats = NDArray[np.float64]
Indices = NDArray[np.uint16]


@dataclass(frozen=True)
class Group:
    """The devices of one class in a fleet: their number, models and links."""

    device_class: str
    devices: int
    models: dict[str, int]
    links: dict[str, int]


@dataclass(frozen=True, eq=False)
class Fleet:
    """All devices of a run, in columns (28 bytes per device).

    Attributes
    ----------
    models, profiles : the catalogue devices and link profiles of the fleet.
    model_index, link_index : (N,) indices into ``models`` and ``profiles``.
    uplink_mbit_s, downlink_mbit_s, rtt_ms : (N,) of each device, drawn once.
    """

    models: tuple[CatalogueDevice, ...]
    profiles: tuple[LinkProfile, ...]
    model_index: Indices
    link_index: Indices
    uplink_mbit_s: Floats
    downlink_mbit_s: Floats
    rtt_ms: Floats

    def __len__(self) -> int:
        """Return the number of devices."""
        return len(self.model_index)

    def device(self, index: int) -> CatalogueDevice:
        """Return the catalogue row of one device."""
        return self.models[int(self.model_index[index])]

    def link(self, index: int) -> LinkProfile:
        """Return the link profile of one device."""
        return self.profiles[int(self.link_index[index])]

    def device_class(self, index: int) -> str:
        """Return the class of one device."""
        return self.device(index).device_class

    def composition(self) -> list[Group]:
        """Return the fleet's groups, one per device class, in alphabetical order."""
        kinds = len(self.profiles)
        pairs, counts = np.unique(
            self.model_index.astype(np.int64) * kinds + self.link_index, return_counts=True
        )
        groups: dict[str, tuple[dict[str, int], dict[str, int]]] = {}
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            model, profile = divmod(pair, kinds)
            device = self.models[model]
            models, links = groups.setdefault(device.device_class, ({}, {}))
            for names, name in ((models, device.name), (links, self.profiles[profile].name)):
                names[name] = names.get(name, 0) + count
        return [
            Group(
                name, sum(models.values()), dict(sorted(models.items())), dict(sorted(on.items()))
            )
            for name, (models, on) in sorted(groups.items())
        ]


def apportion(total: int, weights: list[float]) -> list[int]:
    """Split ``total`` in proportion to ``weights`` by the method of largest remainders.

    Ties go to the earlier entry. The parts sum to ``total`` and differ from the exact shares by
    less than one.
    """
    exact = [total * weight / sum(weights) for weight in weights]
    # the tolerance protects exact whole shares from rounding
    parts = [int(share + 1e-9) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda entry: parts[entry] - exact[entry])
    for entry in by_remainder[: total - sum(parts)]:
        parts[entry] += 1
    return parts


def sample_fleet(section: FleetSection, seed: int, catalogue: Catalogue, links: Links) -> Fleet:
    """Draw the fleet of a scenario.

    The shares of the mix, and of the links in each entry, are met as exactly as whole devices
    allow. The assignment to device numbers is shuffled by seed. Every device's rates are drawn
    once, from a lognormal distribution with the published median and quartiles.

    Raises
    ------
    UserError : the mix names an unknown device or link; the message suggests a similar name.
    """
    models: dict[str, CatalogueDevice] = {}
    profiles: dict[str, LinkProfile] = {}
    counts = apportion(section.size, [entry.weight for entry in section.mix])
    model_of: list[int] = []
    link_of: list[int] = []
    for number, (entry, count) in enumerate(zip(section.mix, counts, strict=True)):
        key_path = f"fleet.mix.{number}"
        device = catalogue.named(entry.device, f"{key_path}.device")
        models.setdefault(device.name, device)
        on_links = apportion(count, list(entry.links.values()))
        for name, devices in zip(entry.links, on_links, strict=True):
            profile = links.named(name, f"{key_path}.links")
            profiles.setdefault(profile.name, profile)
            model_of += [list(models).index(device.name)] * devices
            link_of += [list(profiles).index(profile.name)] * devices
    order = seeds.generator(seed, "fleet-order").permutation(section.size)
    link_index = np.asarray(link_of, dtype=np.uint16)[order]
    used = tuple(profiles.values())
    return Fleet(
        models=tuple(models.values()),
        profiles=used,
        model_index=np.asarray(model_of, dtype=np.uint16)[order],
        link_index=link_index,
        uplink_mbit_s=_draw(seed, "uplink_mbit_s", used, link_index),
        downlink_mbit_s=_draw(seed, "downlink_mbit_s", used, link_index),
        rtt_ms=_draw(seed, "rtt_ms", used, link_index),
    )


def _draw(
    seed: int, quantity: Quantity, profiles: tuple[LinkProfile, ...], link_index: Indices
) -> Floats:
    """Draw one quantity of every device's link from its profile's lognormal."""
    spreads = [profile.spread(quantity) for profile in profiles]
    median = np.array([spread.median for spread in spreads])
    sigma = np.array([spread.sigma for spread in spreads])
    normal = seeds.generator(seed, f"fleet-{quantity}").standard_normal(len(link_index))
    drawn: Floats = median[link_index] * np.exp(sigma[link_index] * normal)
    return drawn
