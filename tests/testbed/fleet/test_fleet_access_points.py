"""Devices that share an access point share its rate; nothing else changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.fleet.catalogue import load_catalogue
from testbed.fleet.link_effects import share_access_points, shared_rate_factor
from testbed.fleet.links import load_links
from testbed.fleet.sampling import Fleet, sample_fleet
from testbed.scenario.schema import FleetSection

MIX = [{"device": "pixel-4", "links": {"wifi": 2.0, "lte": 1.0}}]


def fleet_of(size: int) -> Fleet:
    section = FleetSection.model_validate({"size": size, "mix": MIX})
    return sample_fleet(section, 0, load_catalogue(), load_links())


def on_wifi(fleet: Fleet) -> list[int]:
    return [device for device in range(len(fleet)) if fleet.link(device).medium == "wifi"]


def test_full_and_last_access_points_by_hand() -> None:
    alone, shared = fleet_of(36), share_access_points(fleet_of(36), 10)
    wifi = on_wifi(alone)
    assert len(wifi) == 24
    users = {device: 10 if place < 20 else 4 for place, device in enumerate(wifi)}
    for device in range(36):
        factor = shared_rate_factor(users[device]) if device in users else 1.0
        for rate in ("uplink_mbit_s", "downlink_mbit_s"):
            before, after = getattr(alone, rate)[device], getattr(shared, rate)[device]
            assert after == pytest.approx(before * factor)
    assert shared_rate_factor(10) == pytest.approx(15.7 / 88.0)
    assert np.array_equal(alone.rtt_ms, shared.rtt_ms)
    assert alone.composition() == shared.composition()


def test_no_sharing_by_default() -> None:
    fleet = fleet_of(12)
    assert share_access_points(fleet, None) is fleet
    alone = share_access_points(fleet, 1)
    assert np.array_equal(alone.uplink_mbit_s, fleet.uplink_mbit_s)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60))
def test_more_users_are_never_faster(users: int, more: int) -> None:
    fleet = fleet_of(30)
    few, many = (share_access_points(fleet, n).uplink_mbit_s for n in (users, users + more))
    # the last access point may hold fewer devices than with fewer places on each
    full = on_wifi(fleet)[: len(on_wifi(fleet)) // (users + more) * (users + more)]
    assert np.all(many[full] <= few[full] * (1.0 + 1e-12))
