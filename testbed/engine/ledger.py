"""The ledger: virtual time, energy and bytes charged to each device, by phase."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PHASES = ("train", "serve")
AMOUNTS = ("uplink_bytes", "downlink_bytes", "compute_ms", "transfer_ms", "energy_mj")
COUNTS = ("participations", "stragglers", "offline", "failed")


@dataclass(frozen=True)
class Charge:
    """What one message and its reply cost a device, in virtual time.

    Attributes
    ----------
    energy_mj : None where the device's or its radio's power is unpublished.
    """

    uplink_bytes: int
    downlink_bytes: int
    compute_ms: float
    uplink_ms: float
    downlink_ms: float
    energy_mj: float | None


class Ledger:
    """Columns over the devices of a fleet; only ``FleetGrid`` writes to them."""

    def __init__(self, devices: int) -> None:
        self.amounts: dict[tuple[str, str], NDArray[np.float64]] = {
            (phase, amount): np.zeros(devices) for phase in PHASES for amount in AMOUNTS
        }
        self.counts: dict[str, NDArray[np.int64]] = {
            count: np.zeros(devices, dtype=np.int64) for count in COUNTS
        }

    def charge(self, device: int, phase: str, charge: Charge) -> None:
        """Add one message's cost; unknown energy makes the device's total unknown (NaN)."""
        self.amounts[phase, "uplink_bytes"][device] += charge.uplink_bytes
        self.amounts[phase, "downlink_bytes"][device] += charge.downlink_bytes
        self.amounts[phase, "compute_ms"][device] += charge.compute_ms
        self.amounts[phase, "transfer_ms"][device] += charge.uplink_ms + charge.downlink_ms
        energy = np.nan if charge.energy_mj is None else charge.energy_mj
        self.amounts[phase, "energy_mj"][device] += energy

    def count(self, device: int, what: str) -> None:
        """Count one event of a device."""
        self.counts[what][device] += 1

    def total(self, phase: str, amount: str) -> float:
        """Return the fleet's total, without the devices whose amount is unknown."""
        return float(np.nansum(self.amounts[phase, amount]))

    def state(self) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
        """Return the columns by flat names, for a checkpoint."""
        columns: dict[str, NDArray[np.float64] | NDArray[np.int64]] = {
            f"{phase}.{amount}": values for (phase, amount), values in self.amounts.items()
        }
        return columns | {f"count.{name}": values for name, values in self.counts.items()}

    def load_state(self, columns: dict[str, NDArray[np.float64]]) -> None:
        """Restore what ``state`` returned."""
        for phase, amount in self.amounts:
            self.amounts[phase, amount] = np.array(columns[f"{phase}.{amount}"], dtype=np.float64)
        for name in self.counts:
            self.counts[name] = np.array(columns[f"count.{name}"], dtype=np.int64)
