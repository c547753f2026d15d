"""Drawing a fleet: exact shares, determinism, errors."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.errors import UserError
from testbed.fleet.catalogue import load_catalogue
from testbed.fleet.links import load_links
from testbed.fleet.sampling import Fleet, apportion, sample_fleet
from testbed.scenario.schema import FleetSection

MIX = [
    {"device": "nucleo-l4r5zi", "weight": 20.0, "links": {"wifi": 1.0}},
    {"device": "raspberry-pi-4", "weight": 30.0, "links": {"wifi": 2.0, "broadband": 1.0}},
    {"device": "snapdragon-835", "weight": 50.0, "links": {"lte": 3.0, "wifi": 1.0}},
]


def draw(mix: list[dict[str, Any]], size: int = 100, seed: int = 0) -> Fleet:
    section = FleetSection.model_validate({"size": size, "mix": mix, "availability": "always"})
    return sample_fleet(section, seed, load_catalogue(), load_links())


def test_shares_are_exact() -> None:
    groups = {group.device_class: group for group in draw(MIX).composition()}
    assert {name: group.devices for name, group in groups.items()} == {
        "mcu": 20,
        "phone": 50,
        "sbc": 30,
    }
    assert groups["sbc"].links == {"broadband": 10, "wifi": 20}
    assert groups["phone"].links == {"lte": 38, "wifi": 12}
    assert groups["phone"].models == {"snapdragon-835": 50}


@given(st.integers(1, 2000), st.lists(st.floats(0.01, 100.0), min_size=1, max_size=12))
def test_apportionment(total: int, weights: list[float]) -> None:
    parts = apportion(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - total * weight / sum(weights)) < 1.0 + 1e-6


def test_apportionment_keeps_whole_shares_whole() -> None:
    assert apportion(100, [0.1] * 10) == [10] * 10
    assert apportion(7, [1.0, 1.0]) == [4, 3]


def test_same_seed_same_fleet_other_seed_other_order() -> None:
    first, same, other = draw(MIX, seed=1), draw(MIX, seed=1), draw(MIX, seed=2)
    for column in ("model_index", "link_index", "uplink_mbit_s", "downlink_mbit_s", "rtt_ms"):
        assert np.array_equal(getattr(first, column), getattr(same, column))
    assert not np.array_equal(first.model_index, other.model_index)
    assert first.composition() == other.composition()


def test_rates_follow_the_published_quartiles() -> None:
    fleet = draw([{"device": "pixel-4", "links": {"lte-driving": 1.0}}], size=4000)
    low, mid, high = np.quantile(fleet.uplink_mbit_s, [0.25, 0.5, 0.75])
    assert mid == pytest.approx(36.0, rel=0.05)
    assert high / low == pytest.approx(44.0 / 23.0, rel=0.08)
    assert np.all(fleet.rtt_ms == 33.0)  # no spread published


def test_devices_by_index() -> None:
    fleet = draw(MIX)
    assert len(fleet) == 100
    for index in range(100):
        assert fleet.device_class(index) == fleet.device(index).device_class
        assert fleet.link(index).name in ("wifi", "broadband", "lte")


def test_a_device_costs_less_than_100_bytes() -> None:
    fleet = draw(MIX, size=10_000)
    columns = [value for value in vars(fleet).values() if isinstance(value, np.ndarray)]
    assert sum(column.nbytes for column in columns) <= 100 * len(fleet)


def test_unknown_names() -> None:
    with pytest.raises(UserError, match=r"fleet\.mix\.1\.device: unknown device 'jetson-nanoo'"):
        draw([MIX[0], {"device": "jetson-nanoo"}])
    with pytest.raises(UserError, match=r"fleet\.mix\.0\.links: unknown link 'wify'.*'wifi'"):
        draw([{"device": "jetson-nano", "links": {"wify": 1.0}}])
