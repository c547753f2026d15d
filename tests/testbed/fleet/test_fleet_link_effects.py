"""Sleeping radios, shared access points, losses."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.fleet.catalogue import load_catalogue
from testbed.fleet.link_effects import RadioTimers, RadioUse, retried_ms, shared_rate_factor
from testbed.fleet.links import load_links
from testbed.fleet.sampling import Fleet, sample_fleet
from testbed.scenario.schema import FleetSection


def fleet_on(link: str, size: int = 50) -> Fleet:
    section = FleetSection.model_validate(
        {
            "size": size,
            "mix": [{"device": "snapdragon-835", "links": {link: 1.0}}],
            "availability": "always",
        }
    )
    return sample_fleet(section, 0, load_catalogue(), load_links())


def test_a_cellular_radio_sleeps_in_two_stages() -> None:
    timers = RadioTimers(fleet_on("lte"), seed=1)
    for device in range(50):
        assert timers.wake_ms(device, 0.5) == 0.0
        drowsy, dormant = timers.wake_ms(device, 5.0), timers.wake_ms(device, 11.0)
        assert 200 - 70 <= drowsy <= 270 - 105  # round trips less that of the active state
        assert 750 - 70 <= dormant <= 1200 - 105


def test_messages_wake_a_radio_and_keep_it_awake() -> None:
    timers = RadioTimers(fleet_on("lte"), seed=1)
    use = RadioUse(timers)
    drowsy, dormant = timers.wake_ms(0, 5.0), timers.wake_ms(0, 11.0)
    assert use.begin(0, 7, 100_000.0) == dormant  # it sleeps at first
    use.end(0, 7, 100_900.0)
    assert use.begin(0, 8, 101_400.0) == 0.0
    use.end(0, 8, 101_500.0)
    use.end(0, 7, 3_000.0)  # an older message changes nothing
    copy = RadioUse(timers)
    copy.load_state(use.state())
    for radio in (use, copy):
        assert radio.begin(0, 9, 106_500.0) == drowsy
        radio.end(0, 9, 106_600.0)
        radio.finish()
    # By hand: the delays at 1.2107 W; tails of 0.5 s, 5 s and the whole 10 s at 1.06 W.
    assert use.mj[7] == pytest.approx(1.2107 * dormant + 1060.0 * 0.5)
    assert use.mj[8] == copy.mj[8] == pytest.approx(1060.0 * 5.0)
    assert use.mj[9] == copy.mj[9] == pytest.approx(1.2107 * drowsy + 1060.0 * 10.0)


def test_the_first_message_finds_the_radio_dormant() -> None:
    timers = RadioTimers(fleet_on("5g-low-band"), seed=1)
    use = RadioUse(timers)
    assert use.begin(0, 0, 0.0) == timers.delays_ms()[1][0] > 600.0
    assert math.isnan(use.mj[0])  # its power is unpublished


@pytest.mark.parametrize("link", ["wifi", "ethernet", "broadband", "lora-sf7"])
def test_other_links_never_sleep(link: str) -> None:
    timers = RadioTimers(fleet_on(link), seed=1)
    assert timers.wake_ms(0, 1e6) == 0.0
    use = RadioUse(timers)
    use.end(0, 0, 5.0)
    use.finish()
    assert use.mj == {0: 0.0}


def test_delays_are_drawn_by_seed() -> None:
    fleet = fleet_on("lte")
    first, again, other = (RadioTimers(fleet, seed).delays_ms()[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.std() > 10.0


def test_sharing_meets_the_measured_points_and_falls() -> None:
    for users, mbit_s in ((1, 88.0), (10, 15.7), (20, 10.0), (50, 3.4)):
        assert 88.0 * shared_rate_factor(users) == pytest.approx(mbit_s)
    factors = [shared_rate_factor(users) for users in range(1, 200)]
    assert all(more < fewer for fewer, more in itertools.pairwise(factors))
    with pytest.raises(ValueError, match="at least one user"):
        shared_rate_factor(0)


def test_no_loss_no_retry() -> None:
    assert retried_ms(20.0, 100.0, 0.0, 3, np.random.default_rng(0)) == (20.0, 1)


@given(st.integers(0, 10_000), st.floats(0.0, 0.9))
def test_retries_wait_for_growing_timeouts(seed: int, loss: float) -> None:
    arrived_ms, attempts = retried_ms(20.0, 100.0, loss, 6, np.random.default_rng(seed))
    if math.isinf(arrived_ms):
        assert attempts == 6
    else:
        assert arrived_ms == pytest.approx(20.0 + 100.0 * (2 ** (attempts - 1) - 1))


def test_retries_are_geometric() -> None:
    rng = np.random.default_rng(3)
    attempts = [retried_ms(1.0, 1.0, 0.3, 50, rng)[1] for _ in range(5000)]
    assert np.mean(attempts) == pytest.approx(1.0 / 0.7, rel=0.03)


def test_values_out_of_range_are_refused() -> None:
    for loss, most in ((1.0, 3), (-0.1, 3), (0.1, 0)):
        with pytest.raises(ValueError, match="loss must be"):
            retried_ms(1.0, 1.0, loss, most, np.random.default_rng(0))
