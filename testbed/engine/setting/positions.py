"""Devices whose links an adversary's position reaches, and the device that colludes with it."""

import numpy as np

from testbed.core.errors import UserError
from testbed.core.seeds import generator
from testbed.fleet.link_effects import SHARED_MEDIUM
from testbed.fleet.sampling import Fleet
from testbed.scenario.adversary import Position
from testbed.scenario.schema import Scenario


def devices_read(
    name: str, position: Position, fleet: Fleet, seed: int, devices_per_access_point: int | None
) -> frozenset[int]:
    """Return the devices whose links the adversary ``name`` reads.

    Raises
    ------
    UserError : no device has a link of this type, or there is no shared access point.
    """
    order = generator(seed, f"tap {name}").permutation(len(fleet))
    if position.tap == "access_point":
        return _one_access_point(name, fleet, int(order[0]), devices_per_access_point)
    if position.links_by_type is None:
        count = max(1, round(position.share_of_links * len(fleet)))
        return frozenset(int(device) for device in order[:count])
    links = np.array([profile.name for profile in fleet.profiles])[fleet.link_index]
    read: list[int] = []
    for kind, share in position.links_by_type.items():
        own = [int(device) for device in order if links[device] == kind]
        if not own:
            raise UserError(
                f"adversaries.{name}.position.links_by_type: no device of this fleet has a link "
                f"'{kind}'; the fleet's: {', '.join(sorted(set(links.tolist())))}"
            )
        read += own[: max(1, round(share * len(own))) if share > 0.0 else 0]
    return frozenset(read)


def _one_access_point(
    name: str, fleet: Fleet, draw: int, devices_per_access_point: int | None
) -> frozenset[int]:
    """Return the devices of one access point (``testbed.fleet.link_effects``)."""
    shared = np.array([profile.medium == SHARED_MEDIUM for profile in fleet.profiles])
    on_wifi = np.flatnonzero(shared[fleet.link_index])
    if devices_per_access_point is None or len(on_wifi) == 0:
        raise UserError(
            f"adversaries.{name}.position.tap: 'access_point' needs devices on WiFi and "
            "fleet.devices_per_access_point"
        )
    starts = range(0, len(on_wifi), devices_per_access_point)
    start = starts[draw % len(starts)]
    return frozenset(int(device) for device in on_wifi[start : start + devices_per_access_point])


def colluding_device(name: str, position: Position, devices: int, seed: int) -> int | None:
    """Return the device that colludes with the adversary, or None."""
    if not position.colluding_device:
        return None
    return int(generator(seed, f"colluding device of {name}").integers(devices))


def check_positions(scenario: Scenario, fleet: Fleet) -> None:
    """Refuse positions that do not exist in the fleet, before anything runs.

    Raises
    ------
    UserError : see ``devices_read``.
    """
    for adversary in scenario.adversaries:
        devices_read(
            adversary.name,
            adversary.position,
            fleet,
            scenario.seed,
            scenario.fleet.devices_per_access_point,
        )
