"""Requests through device, link and cloud, against hand-computed and closed-form waiting times."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.serving import Request
from testbed.engine.hosts.host import node_of
from testbed.engine.network.grid import RequestCharges
from testbed.engine.network.ledger import Charge
from testbed.engine.serving.cloud_queue import CloudTimes
from testbed.engine.serving.timing import draw_requests, time_requests
from testbed.fleet.catalogue import load_catalogue
from testbed.fleet.link_effects import RadioTimers
from testbed.fleet.links import load_links
from testbed.fleet.queueing import BatchTimes
from testbed.fleet.sampling import sample_fleet
from testbed.scenario.schema import FleetSection


def charge(compute_ms=0.0, uplink_ms=0.0, downlink_ms=0.0):
    return Charge(1, 1, compute_ms, uplink_ms, downlink_ms, None)


def cloud(answer_ms, servers=1, front_end_ms=1.0):
    batch = BatchTimes(np.array([answer_ms]) / 1000, np.array([front_end_ms]) / 1000)
    return CloudTimes(batch, servers)


def served(arrivals_s, nodes, compute_ms, uplink_ms, downlink_ms, cloud_ms, servers, radio=None):
    requests = [
        Request(i, node_of(n - 1), 0, t)
        for i, (t, n) in enumerate(zip(arrivals_s, nodes, strict=True))
    ]
    charges = {
        item.request: RequestCharges(charge(compute_ms, uplink_ms), charge(0, 0, downlink_ms))
        for item in requests
    }
    return time_requests(requests, charges, cloud(cloud_ms, servers), radio)


def test_two_requests_of_one_device_by_hand():
    times = served([0.0, 0.001], [1, 1], 10.0, 5.0, 2.0, 4.0, 1)
    first, second = times.timings[0], times.timings[1]
    assert (first.queue_ms, first.latency_ms) == (0.0, 21.0)
    # Computed from 10 to 20, link free at 15, sent 20 to 25, served 25 to 29, back at 31.
    assert second.queue_ms == pytest.approx(9.0)
    assert second.latency_ms == pytest.approx(30.0)


def test_unanswered_requests_have_no_time():
    requests = [Request(0, node_of(0), 0, 0.0), Request(1, node_of(1), 0, 0.0)]
    times = time_requests(requests, {0: RequestCharges(charge(1.0))}, cloud(1.0))
    assert times.timings == {}
    assert times.cloud_utilisation == 0.0


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_waiting_at_the_cloud_matches_m_d_1(utilisation):
    service_ms, count = 1.0, 30_000
    rng = np.random.default_rng(1)
    arrivals = np.cumsum(rng.exponential(service_ms / utilisation, count)) / 1000.0
    times = served(arrivals, range(1, count + 1), 0.0, 0.0, 0.0, service_ms, 1)
    waits = np.array([times.timings[i].queue_ms for i in range(count)])
    # Pollaczek-Khinchine for deterministic service.
    expected = utilisation * service_ms / (2 * (1 - utilisation))
    assert waits.mean() == pytest.approx(expected, rel=0.08)
    assert times.cloud_utilisation == pytest.approx(utilisation, rel=0.02)


def test_more_servers_never_wait_longer():
    rng = np.random.default_rng(2)
    arrivals = np.sort(rng.uniform(0, 1.0, 500))
    waits = [
        sum(
            timing.queue_ms
            for timing in served(arrivals, range(1, 501), 0, 0, 0, 5.0, n).timings.values()
        )
        for n in (1, 2, 4, 8)
    ]
    assert waits == sorted(waits, reverse=True)
    assert waits[0] > waits[-1]


def test_requests_cover_all_victims_in_order_of_arrival():
    victims, owners = np.arange(100, 150), np.arange(50) % 7
    requests = draw_requests(victims, owners, 60.0, seed=4)
    assert sorted(item.image for item in requests) == victims.tolist()
    assert all(item.node == node_of(owners[item.image - 100]) for item in requests)
    arrivals = [item.arrival_s for item in requests]
    assert arrivals == sorted(arrivals)
    assert 0 <= arrivals[0] <= arrivals[-1] <= 60.0
    assert requests == draw_requests(victims, owners, 60.0, seed=4)


def radios(link, devices=3):
    mix = [{"device": "snapdragon-835", "links": {link: 1.0}}]
    section = FleetSection.model_validate({"size": devices, "mix": mix})
    return RadioTimers(sample_fleet(section, 0, load_catalogue(), load_links()), seed=1)


def test_a_sleeping_radio_wakes_up_before_it_sends():
    drowsy_ms, dormant_ms = (delays[0] for delays in radios("lte").delays_ms())
    # Answers are back 16 ms after a radio is awake; the gaps are 0.5 s, 5 s and 20 s.
    arrivals = [0.0, 1.5, 6.6, 26.9]
    timings = served(arrivals, [1, 1, 1, 1], 1.0, 10.0, 2.0, 4.0, 1, radios("lte")).timings
    wakes = [timings[number].wake_ms for number in range(4)]
    assert wakes == pytest.approx([dormant_ms, 0.0, drowsy_ms, dormant_ms])
    for number, wake_ms in enumerate(wakes):
        assert timings[number].uplink_ms == wake_ms + 10.0
        assert timings[number].queue_ms == pytest.approx(0.0, abs=1e-6)
        assert timings[number].latency_ms == pytest.approx(17.0 + wake_ms)


def test_an_answer_keeps_the_radio_awake():
    drowsy_ms, dormant_ms = (delays[0] for delays in radios("lte").delays_ms())
    # The answer comes after 9 s, to a radio that dozes; the next request half a second later.
    back_s = (dormant_ms + 1.0 + 10.0 + 9000.0 + drowsy_ms + 2.0) / 1000.0
    timings = served([0.0, back_s + 0.5], [1, 1], 1.0, 10.0, 2.0, 9000.0, 1, radios("lte")).timings
    assert timings[0].wake_ms == dormant_ms + drowsy_ms
    assert timings[0].uplink_ms == dormant_ms + 10.0
    assert timings[0].downlink_ms == drowsy_ms + 2.0
    assert timings[0].latency_ms == pytest.approx(1000.0 * back_s)
    assert (timings[1].uplink_ms, timings[1].downlink_ms) == (10.0, drowsy_ms + 2.0)


def test_each_device_has_a_radio_of_its_own_and_wifi_never_sleeps():
    one_by_one = served([0.0, 0.1, 0.2], [1, 2, 3], 1.0, 1.0, 1.0, 1.0, 1, radios("lte")).timings
    assert [one_by_one[number].wake_ms for number in range(3)] == radios("lte").delays_ms()[
        1
    ].tolist()
    plain = served([0.0, 30.0, 31.0], [1, 2, 1], 3.0, 2.0, 1.0, 1.0, 1)
    awake = served([0.0, 30.0, 31.0], [1, 2, 1], 3.0, 2.0, 1.0, 1.0, 1, radios("wifi"))
    assert awake == plain


def test_raw_requests_keep_the_cloud_busy_for_both_halves():
    requests = [Request(0, node_of(0), 0, 0.0), Request(1, node_of(1), 0, 0.0)]
    charges = {
        0: RequestCharges(charge(0.0, 5.0), charge(0, 0, 2.0), raw=True),
        1: RequestCharges(charge(0.0, 5.0), charge(0, 0, 2.0)),
    }
    times = time_requests(requests, charges, cloud(4.0, front_end_ms=6.0))
    assert times.timings[0].cloud_ms == 10.0
    assert (times.timings[1].cloud_ms, times.timings[1].queue_ms) == (4.0, 10.0)
    assert times.cloud_utilisation == pytest.approx(1.0)  # from the first arrival on
    assert [times.timings[number].cloud_share_ms for number in (0, 1)] == pytest.approx([10.0, 4.0])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(1, 3)), min_size=1, max_size=12),
    st.floats(0.0, 50.0),
    st.floats(0.0, 50.0),
    st.floats(0.0, 50.0),
)
def test_slower_stations_never_answer_sooner(asked, compute_ms, uplink_ms, more_ms):
    arrivals, nodes = (list(column) for column in zip(*sorted(asked), strict=True))

    def answered(compute, uplink):
        timings = served(arrivals, nodes, compute, uplink, 1.0, 2.0, 1).timings
        return sorted(arrivals[n] * 1e3 + timing.latency_ms for n, timing in timings.items())

    sooner = answered(compute_ms, uplink_ms)
    for later in (
        answered(compute_ms + more_ms, uplink_ms),
        answered(compute_ms, uplink_ms + more_ms),
    ):
        assert all(b >= a - 1e-6 for a, b in zip(sooner, later, strict=True))


def test_links_are_free_again_when_the_last_bit_is_sent():
    requests = [Request(0, node_of(0), 0, 0.0), Request(1, node_of(0), 0, 0.0)]
    charges = {n: RequestCharges(charge(0.0, 25.0), charge(0, 0, 2.0)) for n in (0, 1)}
    # 25 ms are 5 ms of sending and 20 ms on the way; the second follows the first by 5 ms.
    times = time_requests(requests, charges, cloud(1.0), one_way_ms=np.array([20.0]))
    assert [times.timings[n].queue_ms for n in (0, 1)] == pytest.approx([0.0, 5.0])


def energies(link, arrivals, uplink_ms=10.0, downlink_ms=2.0):
    requests = [Request(n, node_of(0), 0, at) for n, at in enumerate(arrivals)]
    charged = {
        n: RequestCharges(charge(1.0, uplink_ms), charge(0, 0, downlink_ms))
        for n in range(len(arrivals))
    }
    return time_requests(requests, charged, cloud(4.0), radios(link)).wake_tail_mj


def test_a_radio_pays_for_waking_up_and_for_its_tail_once():
    dormant_ms = radios("lte").delays_ms()[1][0]
    wake_mj, tail_mw = 1210.7 * dormant_ms / 1000, 1060.0
    # Ten seconds of tail follow the answer; 4 ms pass until it reaches the radio.
    alone = wake_mj + tail_mw * (0.004 + 10.0)
    assert energies("lte", [0.0])[0] == pytest.approx(alone)
    apart = energies("lte", [0.0, 60.0])
    assert [apart[0], apart[1]] == pytest.approx([alone, alone])
    # Half a second later the radio is awake: the first request's tail ends when the second is sent.
    gap_s = 0.5
    second_s = (dormant_ms + 1.0 + 10.0 + 4.0 + 2.0) / 1000 + gap_s
    both = energies("lte", [0.0, second_s])
    assert both[0] == pytest.approx(wake_mj + tail_mw * (0.004 + gap_s + 0.001))
    assert both[1] == pytest.approx(tail_mw * (0.004 + 10.0))


def test_other_radios_have_no_tail_and_unpublished_ones_no_figure():
    assert energies("wifi", [0.0, 5.0]) == {0: 0.0, 1: 0.0}
    assert energies("5g-low-band", [0.0, 5.0]) == {0: None, 1: None}
    awake = served([0.0, 5.0], [1, 1], 1.0, 10.0, 2.0, 4.0, 1)  # radio_sleep: false
    assert awake.wake_tail_mj == {0: 0.0, 1: 0.0}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.0, 60.0), min_size=1, max_size=12))
def test_a_radio_is_never_paid_twice_for_the_same_second(arrivals):
    spent = energies("lte", sorted(arrivals))
    wakes_mj = len(arrivals) * 1210.7 * radios("lte").delays_ms()[1][0] / 1000
    end_s = max(arrivals) + 12.0 + 2.0 * len(arrivals)
    assert min(spent.values()) >= 0.0
    assert max(spent.values()) > 10_000.0  # the last tail is a whole one
    assert sum(spent.values()) <= wakes_mj + 1060.0 * end_s
    assert sum(spent.values()) <= wakes_mj + 1060.0 * 10.1 * len(arrivals)
