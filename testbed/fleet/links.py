"""Network links: measured rates and round trips with their spread, and the radio's power."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from testbed.fleet.table import (
    NamedRow,
    NamedRows,
    NotNegative,
    Positive,
    one_of,
    read_table,
    refusal,
)

LINKS_PATH = Path(__file__).with_name("links.csv")
MEDIA = ("wifi", "cellular", "cellular-iot", "wired", "ble", "lora")
Number = TypeVar("Number", float, NDArray[np.float64])
Quantity = Literal["uplink_mbit_s", "downlink_mbit_s", "rtt_ms"]
QUARTILE_Z = 0.6744897501960817
"""The standard normal's upper quartile."""


@dataclass(frozen=True)
class Spread:
    """A lognormal quantity given by its median and, where published, its quartiles."""

    median: float
    q25: float | None = None
    q75: float | None = None

    @property
    def sigma(self) -> float:
        """Return the standard deviation of the logarithm, 0 where no spread is published."""
        if self.q25 is None or self.q75 is None:
            return 0.0
        return float(np.log(self.q75 / self.q25)) / (2.0 * QUARTILE_Z)


@dataclass(frozen=True)
class RadioPower:
    """Extra power while sending or receiving, linear in the rate: base + slope * rate."""

    mw_per_mbit_s: float
    base_mw: float


class LinkProfile(NamedRow):
    """One kind of link; None: unpublished.

    The radio's energy is given per byte or as a power that grows with the rate. The wake-up and the
    tail after the last bit are given as powers.
    """

    title: str
    medium: Annotated[str, one_of(*MEDIA)]
    uplink_mbit_s: Positive
    uplink_q25_mbit_s: Positive | None = None
    uplink_q75_mbit_s: Positive | None = None
    downlink_mbit_s: Positive
    downlink_q25_mbit_s: Positive | None = None
    downlink_q75_mbit_s: Positive | None = None
    rtt_ms: Positive
    rtt_q25_ms: Positive | None = None
    rtt_q75_ms: Positive | None = None
    radio_uplink_mw_per_mbit_s: NotNegative | None = None
    radio_uplink_base_mw: NotNegative | None = None
    radio_downlink_mw_per_mbit_s: NotNegative | None = None
    radio_downlink_base_mw: NotNegative | None = None
    radio_uj_per_byte: NotNegative | None = None
    radio_wake_mw: NotNegative | None = None
    radio_tail_mw: NotNegative | None = None
    source_uplink: str
    source_downlink: str
    source_rtt: str
    source_radio: str = ""

    def spread(self, quantity: Quantity) -> Spread:
        """Return the published distribution of one quantity."""
        way, unit = quantity.split("_", 1)
        columns = (quantity, f"{way}_q25_{unit}", f"{way}_q75_{unit}")
        return Spread(*(getattr(self, column) for column in columns))

    def radio(self, direction: Literal["uplink", "downlink"]) -> RadioPower | None:
        """Return the extra power of sending or of receiving."""
        slope = getattr(self, f"radio_{direction}_mw_per_mbit_s")
        base = getattr(self, f"radio_{direction}_base_mw")
        return None if slope is None or base is None else RadioPower(slope, base)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for quantity in get_args(Quantity):
            spread = self.spread(quantity)
            if (spread.q25 is None) != (spread.q75 is None):
                raise refusal(quantity.replace("_", "_q25_", 1), "give both quartiles or none")
            if not (spread.q25 or 0.0) <= spread.median <= (spread.q75 or float("inf")):
                quartiles = f"{spread.q25:g} and {spread.q75:g}"
                raise refusal(quantity, f"must lie between its quartiles {quartiles}")
        for direction in ("uplink", "downlink"):
            slope, base = f"radio_{direction}_mw_per_mbit_s", f"radio_{direction}_base_mw"
            if (getattr(self, slope) is None) != (getattr(self, base) is None):
                raise refusal(slope, f"give it together with {base}")
        per_rate = (self.radio_uplink_base_mw, self.radio_downlink_base_mw)
        powers = (*per_rate, self.radio_wake_mw, self.radio_tail_mw)
        if any(power is not None for power in powers) and not self.source_radio:
            raise refusal("source_radio", "must not be empty")
        return self


Links = NamedRows[LinkProfile]


def load_links(path: Path = LINKS_PATH) -> Links:
    """Read link profiles (CSV or YAML with the columns of ``LinkProfile``).

    Raises
    ------
    UserError : the file cannot be read, or a row is wrong; names the file, row and column.
    """
    return NamedRows("link", read_table(path, LinkProfile))


def transfer_ms(nbytes: float, mbit_s: Number, rtt_ms: Number) -> Number:
    """Return the milliseconds until a message sent one way has arrived, on one link or on many.

    Half a round trip plus the serialisation at ``mbit_s``; 0 for an empty message, which is not
    sent.
    """
    if nbytes <= 0:
        return 0.0 * rtt_ms
    return rtt_ms / 2.0 + nbytes * 8.0 / (mbit_s * 1000.0)


def radio_energy_mj(
    link: LinkProfile,
    uplink_bytes: float,
    downlink_bytes: float,
    uplink_mbit_s: Number,
    downlink_mbit_s: Number,
) -> Number | None:
    """Return the millijoules of a radio for a transfer, at one rate or at many; None: unpublished.

    Only the time of the transfer counts. Wake-up and tail of a cellular radio depend on other
    messages of the device (``testbed.fleet.link_effects.RadioTimers``).
    """
    total_mj = 0.0 * uplink_mbit_s
    if link.radio_uj_per_byte is not None:
        return total_mj + link.radio_uj_per_byte * (uplink_bytes + downlink_bytes) / 1000.0
    for radio, nbytes, mbit_s in (
        (link.radio("uplink"), uplink_bytes, uplink_mbit_s),
        (link.radio("downlink"), downlink_bytes, downlink_mbit_s),
    ):
        if nbytes <= 0:
            continue
        if radio is None:
            return None
        seconds = nbytes * 8.0 / (mbit_s * 1e6)
        total_mj = total_mj + (radio.base_mw + radio.mw_per_mbit_s * mbit_s) * seconds
    return total_mj
