"""Link effects beyond median rates: sleeping cellular radios, shared access points, losses."""

from collections.abc import Mapping
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
    """Times and powers of each device's radio: how long it takes to wake, and what that costs.

    The two wake-up delays of a device are drawn once: uniform over the measured round trips of each
    state, minus that of the active state. Radios of other media never sleep. A sleeping radio draws
    its link's wake-up power during the delay, and its tail power after the last bit until it is
    dormant or active again (Huang et al. MobiSys 2012, section 5). 4 bytes per device of a fleet
    that has such radios.
    """

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self._link_of = fleet.link_index
        self._sleeps = np.array([link.medium in SLEEPING_MEDIA for link in fleet.profiles])
        place = seeds.generator(seed, "radio-sleep").random if self._sleeps.any() else np.zeros
        self._place: NDArray[np.float32] = place(len(fleet)).astype(np.float32)
        wake_mw = np.array([link.radio_wake_mw for link in fleet.profiles], np.float64)
        tail_mw = np.array([link.radio_tail_mw for link in fleet.profiles], np.float64)
        # NaN: unpublished
        self._wake_mw = np.where(self._sleeps, wake_mw, 0.0)
        self._tail_mw = np.where(self._sleeps, tail_mw, 0.0)

    def sleeping(self) -> NDArray[np.bool_]:
        """Return whether each device's radio is of a kind that sleeps (N,)."""
        sleeping: NDArray[np.bool_] = self._sleeps[self._link_of]
        return sleeping

    def wake_ms(self, device: int, idle_s: float) -> float:
        """Return the milliseconds that a message waits for a radio that was idle for so long."""
        place = np.float64(self._place[device])
        drowsy_ms, dormant_ms = self._delays_ms(self._link_of[device], place)
        return float(wake_ms(idle_s, drowsy_ms, dormant_ms))

    def wake_mj(self, device: int, wake_ms: float) -> float:
        """Return the energy of a wake-up, NaN where the radio's power is unpublished."""
        return float(self._wake_mw[self._link_of[device]]) * wake_ms / 1000.0

    def tail_mj(self, device: int, quiet_ms: float) -> float:
        """Return the energy of the tail in ``quiet_ms`` without traffic, NaN: unpublished."""
        return float(self._tail_mw[self._link_of[device]]) * min(quiet_ms / 1000.0, DORMANT_AFTER_S)

    def awakened(self, devices: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Return what a message to sleeping devices takes: milliseconds to wake, and energy.

        The energy is that of the wake-up and of a whole tail, NaN where it is unpublished.
        """
        link = self._link_of[devices]
        wake_ms = self._delays_ms(link, self._place[devices].astype(np.float64))[1]
        wake_mj = self._wake_mw[link] * wake_ms / 1000.0
        return wake_ms, wake_mj + self._tail_mw[link] * DORMANT_AFTER_S

    def delays_ms(self) -> tuple[Floats, Floats]:
        """Return the delays (N,) after a short and after a long idle time."""
        return self._delays_ms(self._link_of, self._place.astype(np.float64))

    def _delays_ms(
        self, link: Indices | np.uint16, place: Floats | np.float64
    ) -> tuple[Floats, Floats]:
        """Return both delays, at each device's place in the measured ranges."""
        active, asleep = _between(ACTIVE_RTT_MS, place), self._sleeps[link].astype(np.float64)
        return (
            asleep * (_between(DROWSY_RTT_MS, place) - active),
            asleep * (_between(DORMANT_RTT_MS, place) - active),
        )


class RadioUse:
    """Follows radios through their messages, in training and in serving; all sleep at first.

    Every message, up or down, wakes a radio that sleeps, and keeps it awake after its last bit.
    The energies of both add up under the key of the message.

    Parameters
    ----------
    timers : None: radios never sleep, and no energy counts.

    Attributes
    ----------
    mj : energy by key; NaN where the radio's power is unpublished.
    """

    def __init__(self, timers: RadioTimers | None) -> None:
        self._timers = timers
        self.mj: dict[int, float] = {}
        self._quiet_since: dict[int, tuple[float, int]] = {}  # in ms, with the message's key

    def begin(self, device: int, key: int, at_ms: float) -> float:
        """Begin a message; return the milliseconds that it waits for the radio."""
        self.mj.setdefault(key, 0.0)
        if self._timers is None:
            return 0.0
        quiet_ms = self._end_tail(device, at_ms)
        wake_ms = self._timers.wake_ms(device, quiet_ms / 1000.0)
        self.mj[key] += self._timers.wake_mj(device, wake_ms)
        return wake_ms

    def end(self, device: int, key: int, last_bit_ms: float) -> None:
        """End a message with its last bit; the tail begins, unless another message still runs."""
        if last_bit_ms >= self._quiet_since.get(device, (-np.inf, key))[0]:
            self._quiet_since[device] = (last_bit_ms, key)

    def finish(self) -> None:
        """Let every radio fall asleep."""
        for device in list(self._quiet_since):
            self._end_tail(device, np.inf)
        self._quiet_since.clear()

    def state(self) -> dict[str, Floats]:
        """Return the awake radios as columns, for a checkpoint; ``mj`` must have been read."""
        rows = [(device, *since) for device, since in self._quiet_since.items()]
        columns = np.array(rows, dtype=np.float64).reshape(-1, 3).T.copy()
        return dict(zip(("device", "since_ms", "key"), columns, strict=True))

    def load_state(self, columns: Mapping[str, Floats]) -> None:
        """Restore what ``state`` returned."""
        rows = zip(columns["device"], columns["since_ms"], columns["key"], strict=True)
        self._quiet_since = {int(device): (float(at), int(key)) for device, at, key in rows}

    def _end_tail(self, device: int, at_ms: float) -> float:
        """Charge the tail of a device's last message until ``at_ms``; return its length."""
        since_ms, key = self._quiet_since.get(device, (-np.inf, -1))
        quiet_ms = max(0.0, at_ms - since_ms)
        if self._timers is not None and device in self._quiet_since:
            self.mj[key] = self.mj.get(key, 0.0) + self._timers.tail_mj(device, quiet_ms)
        return quiet_ms


def _between(limits: tuple[float, float], place: Floats | np.float64) -> Floats:
    return np.asarray(limits[0] + (limits[1] - limits[0]) * place)


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
