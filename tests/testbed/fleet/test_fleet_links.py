"""Links have sources, and transfers are monotone in bytes and rates."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.errors import UserError
from testbed.fleet.links import (
    LINKS_PATH,
    LinkProfile,
    Spread,
    load_links,
    radio_energy_mj,
    transfer_ms,
)

LINKS = load_links()
BYTES = st.integers(0, 10**9)
RATES = st.floats(1e-3, 1e4)


def test_every_link_has_its_sources() -> None:
    assert len(LINKS) >= 10
    for link in LINKS:
        assert link.source_uplink
        assert link.source_downlink
        assert link.source_rtt
        known = (link.radio("uplink"), link.radio("downlink"), link.radio_uj_per_byte)
        assert bool(link.source_radio) is any(value is not None for value in known)


def test_transfer_by_hand() -> None:
    assert transfer_ms(12_288, 1.0, 40.0) == pytest.approx(20.0 + 98.304)
    assert transfer_ms(0, 1.0, 40.0) == 0.0


@given(BYTES, BYTES, RATES, RATES, st.floats(0.0, 1e4))
def test_more_bytes_never_faster_more_bandwidth_never_slower(
    nbytes: int, more: int, rate: float, extra: float, rtt_ms: float
) -> None:
    base = transfer_ms(nbytes, rate, rtt_ms)
    assert transfer_ms(nbytes + more, rate, rtt_ms) >= base
    assert transfer_ms(nbytes, rate + extra, rtt_ms) <= base


def test_radio_energy_by_hand() -> None:
    assert radio_energy_mj(LINKS.named("wifi"), 1000, 1000, 26.0, 34.5) == pytest.approx(0.82)
    # one second at 10 Mbit/s up: 78 * 10 + (2904 - 2357) mW
    lte = radio_energy_mj(LINKS.named("lte"), 1_250_000, 0, 10.0, 100.0)
    assert lte == pytest.approx(780 + 547)
    assert radio_energy_mj(LINKS.named("5g-low-band"), 100, 100, 72.0, 118.0) is None
    assert radio_energy_mj(LINKS.named("5g-low-band"), 100, 0, 72.0, 118.0) is not None
    assert radio_energy_mj(LINKS.named("lte-m"), 100, 0, 0.6, 1.0) is None
    assert radio_energy_mj(LINKS.named("ethernet"), 10**9, 10**9, 88.0, 88.0) == 0.0


@given(st.sampled_from(list(LINKS)), BYTES, BYTES, RATES, RATES)
def test_radio_energy_adds_up(
    link: LinkProfile, up: int, down: int, up_rate: float, down_rate: float
) -> None:
    both = radio_energy_mj(link, up, down, up_rate, down_rate)
    parts = [
        radio_energy_mj(link, up, 0, up_rate, down_rate),
        radio_energy_mj(link, 0, down, up_rate, down_rate),
    ]
    if both is None:
        assert None in parts
    else:
        assert both == pytest.approx(sum(part for part in parts if part is not None))


def test_spread_from_quartiles() -> None:
    spread = Spread(20.0, 10.0, 40.0)
    assert spread.sigma == pytest.approx(1.0276, abs=1e-4)  # ln 4 / (2 * 0.6745)
    assert Spread(20.0).sigma == 0.0


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("medium", "wify", "did you mean 'wifi'?"),
        ("uplink_mbit_s", "0", "must be a number above 0"),
        ("uplink_mbit_s", "500", "must lie between its quartiles 5 and 50"),
        ("uplink_q25_mbit_s", "", "give both quartiles or none"),
        ("radio_uplink_base_mw", "5", "give it together with"),
        ("source_rtt", "", "must not be empty"),
    ],
)
def test_a_wrong_cell_is_named(tmp_path: Path, column: str, value: str, says: str) -> None:
    row = next(csv.DictReader(LINKS_PATH.open(encoding="utf-8")))
    path = tmp_path / "links.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, LinkProfile.columns())
        writer.writeheader()
        writer.writerow(row | {column: value})
    with pytest.raises(UserError) as caught:
        load_links(path)
    assert f"{path}, row 2, column '" in str(caught.value)
    assert says in str(caught.value)
