"""Requests through device, link and cloud, against hand-computed and closed-form waiting times."""

import numpy as np
import pytest

from server.serving import Request
from testbed.engine.grid import RequestCharges
from testbed.engine.ledger import Charge
from testbed.engine.requests import draw_requests, time_requests


def charge(compute_ms=0.0, uplink_ms=0.0, downlink_ms=0.0):
    return Charge(1, 1, compute_ms, uplink_ms, downlink_ms, None)


def served(arrivals_s, nodes, compute_ms, uplink_ms, downlink_ms, cloud_ms, servers):
    requests = [Request(i, n, 0, t) for i, (t, n) in enumerate(zip(arrivals_s, nodes, strict=True))]
    charges = {
        item.request: RequestCharges(charge(compute_ms, uplink_ms), charge(0, 0, downlink_ms))
        for item in requests
    }
    return time_requests(requests, charges, cloud_ms, servers)


def test_two_requests_of_one_device_by_hand():
    times = served([0.0, 0.001], [1, 1], 10.0, 5.0, 2.0, 4.0, 1)
    first, second = times.timings[0], times.timings[1]
    assert (first.queue_ms, first.latency_ms) == (0.0, 21.0)
    # Computed from 10 to 20, link free at 15, sent 20 to 25, served 25 to 29, back at 31.
    assert second.queue_ms == pytest.approx(9.0)
    assert second.latency_ms == pytest.approx(30.0)


def test_unanswered_requests_have_no_time():
    requests = [Request(0, 1, 0, 0.0), Request(1, 2, 0, 0.0)]
    times = time_requests(requests, {0: RequestCharges(charge(1.0))}, 1.0, 1)
    assert times.timings == {}
    assert times.cloud_utilisation == 0.0


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_waiting_at_the_cloud_matches_m_d_1(utilisation):
    service_ms, count = 1.0, 60_000
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
    assert all(item.node == owners[item.image - 100] + 1 for item in requests)
    arrivals = [item.arrival_s for item in requests]
    assert arrivals == sorted(arrivals)
    assert 0 <= arrivals[0] <= arrivals[-1] <= 60.0
    assert requests == draw_requests(victims, owners, 60.0, seed=4)
