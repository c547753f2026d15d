"""Where adversaries read: shares of links, types of links, one access point, a colluding device."""

import numpy as np
import pytest

from testbed.core.errors import UserError
from testbed.engine.setting.positions import colluding_device, devices_read
from testbed.fleet.catalogue import load_catalogue
from testbed.fleet.links import load_links
from testbed.fleet.sampling import sample_fleet
from testbed.scenario.adversary import Position
from testbed.scenario.schema import FleetSection, MixEntry

SIZE = 60


@pytest.fixture(scope="module")
def fleet():
    mix = [MixEntry(device="raspberry-pi-4", links={"wifi": 2.0, "lte": 1.0})]
    return sample_fleet(FleetSection(size=SIZE, mix=mix), 1, load_catalogue(), load_links())


def _links(fleet, devices):
    return [fleet.link(device).name for device in devices]


def test_shares_of_all_links(fleet):
    read = devices_read("spy", Position(share_of_links=0.25), fleet, 0, None)
    assert len(read) == 15
    assert read <= devices_read("spy", Position(share_of_links=0.5), fleet, 0, None)
    assert len(devices_read("spy", Position(tap="cloud"), fleet, 0, None)) == SIZE


def test_shares_by_type_read_those_types_only(fleet):
    everywhere = _links(fleet, range(SIZE))
    read = devices_read("spy", Position(links_by_type={"lte": 1.0}), fleet, 0, None)
    assert _links(fleet, read) == ["lte"] * everywhere.count("lte")
    half = devices_read("spy", Position(links_by_type={"wifi": 0.5, "lte": 0.0}), fleet, 0, None)
    assert _links(fleet, half) == ["wifi"] * round(0.5 * everywhere.count("wifi"))
    with pytest.raises(UserError, match=r"adversaries\.spy\.position\.links_by_type.*'ble'"):
        devices_read("spy", Position(links_by_type={"ble": 1.0}), fleet, 0, None)


def test_one_access_point_is_a_run_of_devices_on_wifi(fleet):
    position = Position(tap="access_point")
    on_wifi = [device for device in range(SIZE) if fleet.link(device).name == "wifi"]
    read = sorted(devices_read("spy", position, fleet, 0, 4))
    start = on_wifi.index(read[0])
    assert start % 4 == 0
    assert read == on_wifi[start : start + 4]
    others = {frozenset(devices_read("spy", position, fleet, seed, 4)) for seed in range(8)}
    assert len(others) > 1
    with pytest.raises(UserError, match="devices_per_access_point"):
        devices_read("spy", position, fleet, 0, None)


def test_the_colluding_device_is_drawn_by_seed_and_name():
    position = Position(colluding_device=True)
    drawn = [colluding_device("spy", position, SIZE, seed) for seed in range(20)]
    assert all(0 <= device < SIZE for device in drawn)
    assert len(set(drawn)) > 5
    assert colluding_device("spy", Position(), SIZE, 0) is None
    assert drawn == [colluding_device("spy", position, SIZE, seed) for seed in range(20)]
    assert np.all([isinstance(device, int) for device in drawn])
