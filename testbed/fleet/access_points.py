"""Shared access points: devices on one WiFi share its rate."""

import numpy as np

from testbed.fleet.link_effects import shared_rate_factor
from testbed.fleet.sampling import Fleet

SHARED_MEDIUM = "wifi"


def share_access_points(fleet: Fleet, devices_per_access_point: int | None) -> Fleet:
    """Return the fleet with the rates of devices on WiFi divided among those of an access point.

    Devices on WiFi fill access points in the order of their numbers (which a fleet's draw has
    shuffled); the last one may have fewer. Each device's own rate is scaled by the measured share
    of so many users (``testbed.fleet.link_effects.shared_rate_factor``).

    Parameters
    ----------
    devices_per_access_point : at least 1; None leaves every rate as it is.
    """
    if devices_per_access_point is None:
        return fleet
    shares = np.array([profile.medium == SHARED_MEDIUM for profile in fleet.profiles])
    on_wifi = np.flatnonzero(shares[fleet.link_index])
    factor = np.ones(len(fleet))
    for start in range(0, len(on_wifi), devices_per_access_point):
        users = on_wifi[start : start + devices_per_access_point]
        factor[users] = shared_rate_factor(len(users))
    return Fleet(
        models=fleet.models,
        profiles=fleet.profiles,
        model_index=fleet.model_index,
        link_index=fleet.link_index,
        uplink_mbit_s=fleet.uplink_mbit_s * factor,
        downlink_mbit_s=fleet.downlink_mbit_s * factor,
        rtt_ms=fleet.rtt_ms,
    )
