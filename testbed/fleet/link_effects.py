"""Link effects beyond median rates: sleeping cellular radios, shared access points, losses."""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from testbed.core import seeds
from testbed.fleet.sampling import Fleet, Indices

Floats = NDArray[np.float64]

SLEEPING_MEDIA = ("cellular",)
"""Links whose radio sleeps. The published round trips of LTE-M and NB-IoT belong to the connected
state; their deeper sleep modes are set by the operator and not modelled."""

DROWSY_AFTER_S = 1.0
DORMANT_AFTER_S = 10.0
ACTIVE_RTT_MS = (70.0, 105.0)
DROWSY_RTT_MS = (200.0, 270.0)
DORMANT_RTT_MS = (750.0, 1200.0)
"""Measured round trips of an LTE radio: while active, after 1 to 10 s idle, after about 10 s."""

SHARED_MEDIUM = "wifi"
SHARED_USERS = np.array([1.0, 10.0, 20.0, 50.0])
SHARED_MBIT_S = np.array([88.0, 15.7, 10.0, 3.4])
"""Rate of each user by the number of users of one WLAN (EdgeCloudSim's measured table)."""


class RadioTimers:
    """Last activity of each device's radio, and the cost of waking it (8 bytes per device).

    The two wake-up delays of a device are drawn once: uniform over the measured round trips of each
    state, minus that of the active state. Radios of other media never sleep. A sleeping radio draws
    its link's wake-up power during the delay, and its tail power after the last bit until it is
    dormant or active again (Huang et al. MobiSys 2012, section 5).
    """

    def __init__(self, fleet: Fleet, seed: int) -> None:
        rng = seeds.generator(seed, "radio-sleep")
        self._place = rng.random(len(fleet))
        self._link_of = fleet.link_index
        self._sleeps = np.array([link.medium in SLEEPING_MEDIA for link in fleet.profiles])
        wake_mw = np.array([link.radio_wake_mw for link in fleet.profiles], np.float64)
        tail_mw = np.array([link.radio_tail_mw for link in fleet.profiles], np.float64)
        # NaN: unpublished
        self._wake_mw = np.where(self._sleeps, wake_mw, 0.0)
        self._tail_mw = np.where(self._sleeps, tail_mw, 0.0)
        self._active_until_s: dict[int, float] = {}

    def wake_ms(self, device: int, at_s: float) -> float:
        """Return the milliseconds that a message sent at ``at_s`` waits for the radio."""
        idle_s = at_s - self._active_until_s.get(device, -np.inf)
        drowsy_ms, dormant_ms = self._delays_ms(self._link_of[device], self._place[device])
        return float(wake_ms(idle_s, drowsy_ms, dormant_ms))

    def active_until(self, device: int, until_s: float) -> None:
        """Record that the radio was active until ``until_s``; earlier times are ignored."""
        self._active_until_s[device] = max(self._active_until_s.get(device, -np.inf), until_s)

    def wake_mj(self, device: int, wake_ms: float) -> float:
        """Return the energy of a wake-up, NaN where the radio's power is unpublished."""
        return float(self._wake_mw[self._link_of[device]]) * wake_ms / 1000.0

    def tail_mj(self, device: int, quiet_ms: float) -> float:
        """Return the energy of the tail in ``quiet_ms`` without traffic, NaN: unpublished."""
        return float(self._tail_mw[self._link_of[device]]) * min(quiet_ms / 1000.0, DORMANT_AFTER_S)

    def delays_ms(self) -> tuple[Floats, Floats]:
        """Return the delays (N,) after a short and after a long idle time."""
        return self._delays_ms(self._link_of, self._place)

    def _delays_ms(self, link: Indices | np.uint16, place: Floats) -> tuple[Floats, Floats]:
        """Return both delays, at each device's place in the measured ranges."""
        active, asleep = _between(ACTIVE_RTT_MS, place), self._sleeps[link].astype(np.float64)
        return (
            asleep * (_between(DROWSY_RTT_MS, place) - active),
            asleep * (_between(DORMANT_RTT_MS, place) - active),
        )


def _between(limits: tuple[float, float], place: Floats) -> Floats:
    return limits[0] + (limits[1] - limits[0]) * place


def wake_ms(idle_s: ArrayLike, drowsy_ms: ArrayLike, dormant_ms: ArrayLike) -> Floats:
    """Return the wake-up delays for idle times, in the unit of the delays; arrays of one shape."""
    idle = np.asarray(idle_s)
    asleep: Floats = np.where(idle < DORMANT_AFTER_S, drowsy_ms, dormant_ms)
    return np.where(idle < DROWSY_AFTER_S, 0.0, asleep)


def shared_rate_factor(users: int) -> float:
    """Return each user's share of an access point's single-user rate.

    Power law between the measured points (1, 10, 20 and 50 users), extended beyond the last.

    Raises
    ------
    ValueError : fewer than one user.
    """
    if users < 1:
        raise ValueError(f"an access point is shared by at least one user, got {users}")
    log_users, log_rate = np.log(SHARED_USERS), np.log(SHARED_MBIT_S / SHARED_MBIT_S[0])
    at = np.log(float(users))
    if at > log_users[-1]:
        slope = (log_rate[-1] - log_rate[-2]) / (log_users[-1] - log_users[-2])
        return float(np.exp(log_rate[-1] + slope * (at - log_users[-1])))
    return float(np.exp(np.interp(at, log_users, log_rate)))


def share_access_points(fleet: Fleet, devices_per_access_point: int | None) -> Fleet:
    """Return the fleet with the WiFi rates divided among the devices of each access point.

    Devices on WiFi fill access points in the order of their numbers, which the fleet's draw has
    shuffled; the last one may have fewer. Each device's rate is scaled by the measured share of a
    user (``shared_rate_factor``).

    Parameters
    ----------
    devices_per_access_point : at least 1; None: no sharing.
    """
    if devices_per_access_point is None:
        return fleet
    shares = np.array([profile.medium == SHARED_MEDIUM for profile in fleet.profiles])
    on_wifi = np.flatnonzero(shares[fleet.link_index])
    factor = np.ones(len(fleet))
    for start in range(0, len(on_wifi), devices_per_access_point):
        users = on_wifi[start : start + devices_per_access_point]
        factor[users] = shared_rate_factor(len(users))
    return replace(
        fleet,
        uplink_mbit_s=fleet.uplink_mbit_s * factor,
        downlink_mbit_s=fleet.downlink_mbit_s * factor,
    )


def retried_ms(
    once_ms: float, timeout_ms: float, loss: float, most_attempts: int, rng: np.random.Generator
) -> tuple[float, int]:
    """Return when a message with possible losses arrives, and how often it was sent.

    Each attempt is lost with probability ``loss``. A loss is noticed after ``timeout_ms``, which
    doubles with each attempt (exponential back-off, RFC 6298).

    Returns
    -------
    Milliseconds until it arrived, infinite if ``most_attempts`` were lost, and the attempts.

    Raises
    ------
    ValueError : a loss outside [0, 1), or fewer than one attempt.
    """
    if not 0.0 <= loss < 1.0 or most_attempts < 1:
        raise ValueError(
            f"loss must be in [0, 1) and attempts above 0, got {loss}, {most_attempts}"
        )
    waited_ms = 0.0
    for attempt in range(1, most_attempts + 1):
        if rng.random() >= loss:
            return waited_ms + once_ms, attempt
        waited_ms += timeout_ms * 2.0 ** (attempt - 1)
    return float("inf"), most_attempts
