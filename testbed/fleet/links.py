"""Network links: measured rates and round trips with their spread, and what the radio draws."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from testbed.core.errors import UserError
from testbed.core.registry import nearest
from testbed.fleet.table import TableRow, read_table

LINKS_PATH = Path(__file__).with_name("links.csv")
MEDIA = ("wifi", "cellular", "cellular-iot", "wired", "ble", "lora")
COLUMNS = (
    "name",
    "title",
    "medium",
    "uplink_mbit_s",
    "uplink_q25_mbit_s",
    "uplink_q75_mbit_s",
    "downlink_mbit_s",
    "downlink_q25_mbit_s",
    "downlink_q75_mbit_s",
    "rtt_ms",
    "rtt_q25_ms",
    "rtt_q75_ms",
    "radio_uplink_mw_per_mbit_s",
    "radio_uplink_base_mw",
    "radio_downlink_mw_per_mbit_s",
    "radio_downlink_base_mw",
    "radio_uj_per_byte",
    "radio_wake_mw",
    "radio_tail_mw",
    "source_uplink",
    "source_downlink",
    "source_rtt",
    "source_radio",
)
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


@dataclass(frozen=True)
class LinkProfile:
    """One kind of link; None stands for what nobody has published.

    The radio's energy is given either per byte or as a power that grows with the rate; what it
    draws while it wakes up, and while it stays awake after the last bit, as a power.
    """

    name: str
    title: str
    medium: str
    uplink_mbit_s: Spread
    downlink_mbit_s: Spread
    rtt_ms: Spread
    radio_uplink: RadioPower | None
    radio_downlink: RadioPower | None
    radio_uj_per_byte: float | None
    radio_wake_mw: float | None
    radio_tail_mw: float | None
    source_uplink: str
    source_downlink: str
    source_rtt: str
    source_radio: str


class Links:
    """Link profiles by name, in the order of their rows."""

    def __init__(self, profiles: list[LinkProfile]) -> None:
        self._profiles = {profile.name: profile for profile in profiles}

    def __len__(self) -> int:
        """Return the number of profiles."""
        return len(self._profiles)

    def __iter__(self) -> Iterator[LinkProfile]:
        """Iterate over the profiles."""
        return iter(self._profiles.values())

    def names(self) -> list[str]:
        """Return the names, in the order of the rows."""
        return list(self._profiles)

    def link(self, name: str, key_path: str = "link") -> LinkProfile:
        """Return one profile; ``key_path`` says in messages where the name was given.

        Raises
        ------
        UserError : no link of that name.
        """
        if name not in self._profiles:
            raise UserError(
                f"{key_path}: unknown link '{name}'{nearest(name, self.names())}; "
                f"known: {', '.join(self.names())}"
            )
        return self._profiles[name]


def load_links(path: Path = LINKS_PATH) -> Links:
    """Read link profiles (CSV with the columns of ``COLUMNS``).

    Raises
    ------
    UserError : the file cannot be read, or a row is wrong; names the file, row and column.
    """
    profiles: dict[str, LinkProfile] = {}
    for row in read_table(path, COLUMNS):
        profile = _parse(row)
        if profile.name in profiles:
            row.refuse("name", f"'{profile.name}' is given twice")
        profiles[profile.name] = profile
    return Links(list(profiles.values()))


def _parse(row: TableRow) -> LinkProfile:
    return LinkProfile(
        name=row.text("name"),
        title=row.text("title"),
        medium=row.choice("medium", MEDIA),
        uplink_mbit_s=_spread(row, "uplink", "mbit_s"),
        downlink_mbit_s=_spread(row, "downlink", "mbit_s"),
        rtt_ms=_spread(row, "rtt", "ms"),
        radio_uplink=_radio(row, "uplink"),
        radio_downlink=_radio(row, "downlink"),
        radio_uj_per_byte=row.optional_not_negative("radio_uj_per_byte"),
        radio_wake_mw=_sourced(row, "radio_wake_mw"),
        radio_tail_mw=_sourced(row, "radio_tail_mw"),
        source_uplink=row.text("source_uplink"),
        source_downlink=row.text("source_downlink"),
        source_rtt=row.text("source_rtt"),
        source_radio=row.optional_text("source_radio"),
    )


def _spread(row: TableRow, quantity: str, unit: str) -> Spread:
    median = row.positive(f"{quantity}_{unit}")
    q25 = row.optional_positive(f"{quantity}_q25_{unit}")
    q75 = row.optional_positive(f"{quantity}_q75_{unit}")
    if (q25 is None) != (q75 is None):
        row.refuse(f"{quantity}_q25_{unit}", "give both quartiles or none")
    if q25 is not None and q75 is not None and not q25 <= median <= q75:
        row.refuse(f"{quantity}_{unit}", f"must lie between its quartiles {q25:g} and {q75:g}")
    return Spread(median, q25, q75)


def _radio(row: TableRow, direction: str) -> RadioPower | None:
    slope_column, base_column = f"radio_{direction}_mw_per_mbit_s", f"radio_{direction}_base_mw"
    if row.given(slope_column) != row.given(base_column):
        row.refuse(slope_column, f"give it together with {base_column}")
    if not row.given(slope_column):
        return None
    row.text("source_radio")
    return RadioPower(row.not_negative(slope_column), row.not_negative(base_column))


def _sourced(row: TableRow, column: str) -> float | None:
    if row.given(column):
        row.text("source_radio")
    return row.optional_not_negative(column)


def transfer_ms(nbytes: float, mbit_s: float, rtt_ms: float) -> float:
    """Return the milliseconds until a message sent one way has arrived.

    Half a round trip plus the serialisation at ``mbit_s``; 0 for an empty message, which is not
    sent at all.
    """
    if nbytes <= 0:
        return 0.0
    return rtt_ms / 2.0 + nbytes * 8.0 / (mbit_s * 1000.0)


def radio_energy_mj(
    link: LinkProfile,
    uplink_bytes: float,
    downlink_bytes: float,
    uplink_mbit_s: float,
    downlink_mbit_s: float,
) -> float | None:
    """Return the millijoules that the device's radio adds for a transfer, None: unpublished.

    Counted while bits flow; waking a cellular radio up and its tail after the last bit depend on
    what the device sends when (``testbed.fleet.link_effects.RadioTimers``).
    """
    if link.radio_uj_per_byte is not None:
        return link.radio_uj_per_byte * (uplink_bytes + downlink_bytes) / 1000.0
    total_mj = 0.0
    for radio, nbytes, mbit_s in (
        (link.radio_uplink, uplink_bytes, uplink_mbit_s),
        (link.radio_downlink, downlink_bytes, downlink_mbit_s),
    ):
        if nbytes <= 0:
            continue
        if radio is None:
            return None
        seconds = nbytes * 8.0 / (mbit_s * 1e6)
        total_mj += (radio.base_mw + radio.mw_per_mbit_s * mbit_s) * seconds
    return total_mj
