"""The ledger: virtual time, energy and bytes charged to each device, by phase.

Most devices of a large fleet are idle: they enrol, receive the front-end and are never chosen. They
are charged bytes, transfer time and energy, but no compute time and no events. Only the former have
a column over the whole fleet, allocated on first use. The others are stored for the devices that
have any. Readers see full columns, and sums run in the order of the devices.
"""

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PHASES = ("train", "serve")
AMOUNTS = ("uplink_bytes", "downlink_bytes", "compute_ms", "transfer_ms", "energy_mj")
COUNTS = ("participations", "stragglers", "offline", "failed")
Key = tuple[str, str]
ROUND_MS: Key = ("train", "round_ms")
ACTIVE: tuple[Key | str, ...] = (*((phase, "compute_ms") for phase in PHASES), ROUND_MS, *COUNTS)
ACTIVE_DEVICES = "active"
LARGEST = np.iinfo(np.uint32).max


@dataclass(frozen=True)
class Charge:
    """The cost of one message and its reply to a device, in virtual time.

    Attributes
    ----------
    energy_mj : above idle; None where the device's or its radio's power is unpublished.
    wake_tail_mj : the part of it for the radio's wake-ups and tails, None: unpublished. The ledger
        does not keep it: it is what exceeds ``DeviceCosts.work_mj`` of the other amounts.
    round_ms : time of the device in its round, from the reply before (or the round's first message)
        to this reply.
    """

    uplink_bytes: int
    downlink_bytes: int
    compute_ms: float
    uplink_ms: float
    downlink_ms: float
    energy_mj: float | None
    wake_tail_mj: float | None = 0.0
    round_ms: float = 0.0


@dataclass(frozen=True)
class Charges:
    """The costs of one message, and of its reply, to many devices; as ``Charge``, in columns.

    Attributes
    ----------
    energy_mj : NaN where it is unpublished.
    """

    uplink_bytes: NDArray[np.int64]
    downlink_bytes: NDArray[np.int64]
    uplink_ms: NDArray[np.float64]
    downlink_ms: NDArray[np.float64]
    energy_mj: NDArray[np.float64]


class Ledger:
    """The charges of a fleet's devices; only ``FleetGrid`` writes to it.

    An idle device takes 24 bytes per phase (8 more once any device was charged 4 GiB).
    """

    def __init__(self, devices: int) -> None:
        self._devices = devices
        self._columns: dict[Key, NDArray[Any]] = {}
        self._place: dict[int, int] = {}  # in the active columns, by device
        self._active: dict[Key | str, array[float]] = {key: array("d") for key in ACTIVE}

    def charge(self, device: int, phase: str, charge: Charge) -> None:
        """Add one message's cost; unknown energy makes the device's total unknown (NaN)."""
        self._add_bytes(device, (phase, "uplink_bytes"), charge.uplink_bytes)
        self._add_bytes(device, (phase, "downlink_bytes"), charge.downlink_bytes)
        self._add(device, (phase, "transfer_ms"), charge.uplink_ms + charge.downlink_ms)
        energy = np.nan if charge.energy_mj is None else charge.energy_mj
        self._add(device, (phase, "energy_mj"), energy)
        if charge.compute_ms:
            self._active[phase, "compute_ms"][self._placed(device)] += charge.compute_ms
        if charge.round_ms:
            self._active[ROUND_MS][self._placed(device)] += charge.round_ms

    def charge_all(self, devices: NDArray[np.int64], phase: str, charges: Charges) -> None:
        """Add one message's cost to each of these different devices, as ``charge`` does."""
        for key, whole in (
            ((phase, "uplink_bytes"), charges.uplink_bytes),
            ((phase, "downlink_bytes"), charges.downlink_bytes),
        ):
            self._column(key)
            totals = self._columns[key][devices].astype(np.int64) + whole
            self._widen(key, totals.max(initial=0))
            self._columns[key][devices] = totals
        for name, amounts in (
            ("transfer_ms", charges.uplink_ms + charges.downlink_ms),
            ("energy_mj", charges.energy_mj),
        ):
            if amounts.any():
                self._column((phase, name))[devices] += amounts

    def count(self, device: int, event: str) -> None:
        """Count one event of a device."""
        self._active[event][self._placed(device)] += 1

    def counted(self, event: str) -> int:
        """Return how often an event happened in the whole fleet."""
        return int(sum(self._active[event]))

    def total(self, phase: str, amount: str) -> float:
        """Return the fleet's total, without devices whose amount is unknown."""
        return float(np.nansum(self._dense((phase, amount))))

    @property
    def amounts(self) -> dict[Key, NDArray[np.float64]]:
        """Every amount of every device (N,), by phase and name: a copy."""
        return {key: self._dense(key) for phase in PHASES for key in _keys(phase)}

    @property
    def counts(self) -> dict[str, NDArray[np.int64]]:
        """How often each event happened to every device (N,): a copy."""
        return {name: self._dense(name).astype(np.int64) for name in COUNTS}

    def state(self) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
        """Return the charges by flat names, for a checkpoint; without columns that are empty."""
        columns: dict[str, NDArray[np.float64] | NDArray[np.int64]] = {
            _flat(key): column.astype(np.float64) for key, column in self._columns.items()
        }
        columns |= {_flat(key): np.array(values) for key, values in self._active.items()}
        return columns | {ACTIVE_DEVICES: np.array(list(self._place), dtype=np.int64)}

    def load_state(self, columns: dict[str, NDArray[np.float64]]) -> None:
        """Restore what ``state`` returned."""
        self._columns = {}
        for key in (key for phase in PHASES for key in _keys(phase) if key not in ACTIVE):
            values = columns.get(_flat(key))
            if values is not None:
                whole = key[1].endswith("_bytes")
                self._columns[key] = values.astype(_width(values.max())) if whole else values.copy()
        devices = columns[ACTIVE_DEVICES].tolist()
        self._place = {device: place for place, device in enumerate(devices)}
        self._active = {key: array("d", columns[_flat(key)].tolist()) for key in ACTIVE}

    def _column(self, key: Key) -> NDArray[Any]:
        """Return a column of the whole fleet, allocated on first use."""
        if key not in self._columns:
            whole = key[1].endswith("_bytes")
            self._columns[key] = np.zeros(self._devices, dtype=_width(0) if whole else np.float64)
        return self._columns[key]

    def _widen(self, key: Key, largest: int) -> None:
        """Make a column of whole numbers wide enough for this one."""
        if largest > LARGEST:
            self._columns[key] = self._columns[key].astype(_width(largest), copy=False)

    def _add(self, device: int, key: Key, value: float) -> None:
        if value != 0.0:
            self._column(key)[device] += value

    def _add_bytes(self, device: int, key: Key, value: int) -> None:
        total = int(self._column(key)[device]) + value
        self._widen(key, total)
        self._columns[key][device] = total

    def _placed(self, device: int) -> int:
        """Return a device's place among the active ones."""
        if device not in self._place:
            self._place[device] = len(self._place)
            for values in self._active.values():
                values.append(0.0)
        return self._place[device]

    def _dense(self, key: Key | str) -> NDArray[np.float64]:
        """Return a column (N,) of the whole fleet."""
        if key in ACTIVE:
            column = np.zeros(self._devices)
            column[list(self._place)] = self._active[key]
            return column
        assert isinstance(key, tuple)
        if key not in self._columns:
            return np.zeros(self._devices)
        return self._columns[key].astype(np.float64)


def _flat(key: Key | str) -> str:
    return f"count.{key}" if isinstance(key, str) else ".".join(key)


def _keys(phase: str) -> list[Key]:
    return [*((phase, amount) for amount in AMOUNTS), *([ROUND_MS] if phase == "train" else [])]


def _width(largest: float) -> type[np.unsignedinteger[Any]]:
    """Return the type of an integer column: 4 bytes per device if that is enough."""
    return np.uint32 if largest <= LARGEST else np.uint64
