"""Serving under load: hand-computed paths, closed forms through the whole chain, summaries."""

from pathlib import Path

import numpy as np
import pytest

from testbed.core.errors import UserError
from testbed.fleet.queueing import BatchTimes
from testbed.fleet.serving_load import (
    Cloud,
    DeviceTimes,
    Requests,
    by_class,
    poisson_requests,
    recorded_requests,
    serve,
)

QUICK = 1e-9


def times(devices: int, compute_s: float = QUICK, uplink_s: float = QUICK) -> DeviceTimes:
    every = np.ones(devices)
    return DeviceTimes(compute_s * every, uplink_s * every, 0.001 * every, 0.02 * every)


def test_two_requests_by_hand() -> None:
    requests = Requests(np.array([0, 0]), np.array([1.0, 1.1]))
    found = serve(
        requests, times(1, compute_s=0.3, uplink_s=0.5), Cloud(BatchTimes(np.array([0.05])))
    )
    # first: computes 1.0-1.3, sends 1.3-1.8, at the cloud 1.82-1.87, back at 1.891
    # second: waits 0.2, computes 1.3-1.6, waits 0.2, sends 1.8-2.3, back at 2.391
    assert found.latency_s == pytest.approx([0.891, 1.291])
    assert found.device_wait_s == pytest.approx([0.0, 0.2])
    assert found.uplink_wait_s == pytest.approx([0.0, 0.2])
    assert found.cloud_wait_s == pytest.approx([0.0, 0.0])
    # from the first arrival at the cloud, 1.82, to the end of its last service, 2.37
    assert found.span_s == pytest.approx(0.55)
    assert found.utilisation == pytest.approx(0.1 / 0.55)


def test_parts_add_up() -> None:
    requests = poisson_requests(np.full(50, 2.0), 60.0, 3)
    way = times(50, 0.1, 0.05)
    found = serve(requests, way, Cloud(BatchTimes(np.array([0.004, 0.006, 0.007])), 1, 0.01))
    parts = found.device_wait_s + found.compute_s + found.uplink_wait_s + 0.05 + 0.02
    parts = parts + found.cloud_wait_s + found.cloud_s + 0.001 + 0.02
    assert np.allclose(found.latency_s, parts)
    assert min(found.device_wait_s.min(), found.uplink_wait_s.min()) >= 0.0
    assert found.cloud_wait_s.min() >= -1e-9


def test_the_cloud_is_an_m_d_1_queue_when_devices_are_quick() -> None:
    requests = poisson_requests(np.full(200, 3.0), 300.0, 1)  # 600 per second together
    found = serve(requests, times(200), Cloud(BatchTimes(np.array([0.001]))))
    load = 0.6
    assert found.utilisation == pytest.approx(load, rel=0.02)
    assert found.cloud_wait_s.mean() == pytest.approx(0.001 * load / (2 * (1 - load)), rel=0.05)


def test_devices_are_m_d_1_queues() -> None:
    requests = poisson_requests(np.full(100, 5.0), 400.0, 2)
    found = serve(requests, times(100, compute_s=0.1), Cloud(BatchTimes(np.array([QUICK]))))
    assert found.device_wait_s.mean() == pytest.approx(0.1 * 0.5 / (2 * 0.5), rel=0.05)


def test_arrivals() -> None:
    rate = np.array([0.0, 1.0, 4.0])
    requests = poisson_requests(rate, 2000.0, 5)
    counts = np.bincount(requests.device, minlength=3)
    assert counts[0] == 0
    assert counts[1:] == pytest.approx([2000, 8000], rel=0.05)
    assert np.all(np.diff(requests.device) >= 0)
    for device in (1, 2):
        arrival = requests.arrival_s[requests.device == device]
        assert np.all(np.diff(arrival) >= 0)
        gaps = np.diff(arrival)
        assert gaps.std() == pytest.approx(gaps.mean(), rel=0.06)  # exponential
    again = poisson_requests(rate, 2000.0, 5)
    assert np.array_equal(again.arrival_s, requests.arrival_s)


def test_a_sleeping_radio_delays_first_and_rare_messages() -> None:
    requests = Requests(np.array([0, 0, 0, 0, 1]), np.array([0.0, 0.5, 5.0, 30.0, 0.0]))
    way = times(2)
    asleep = DeviceTimes(
        way.compute_s,
        way.uplink_s,
        way.downlink_s,
        way.one_way_s,
        np.array([0.15, 0.0]),
        np.array([0.8, 0.0]),
    )
    cloud = Cloud(BatchTimes(np.array([QUICK])))
    plain, found = serve(requests, way, cloud), serve(requests, asleep, cloud)
    assert found.wake_s.tolist() == [0.8, 0.0, 0.15, 0.8, 0.0]
    # the second message comes while the first still waits for the radio
    assert found.latency_s - plain.latency_s == pytest.approx([0.8, 0.3, 0.15, 0.8, 0.0], abs=1e-6)


def test_more_servers_and_faster_devices_never_hurt() -> None:
    requests = poisson_requests(np.full(100, 4.0), 60.0, 7)
    base = serve(requests, times(100, 0.1), Cloud(BatchTimes(np.array([0.003])))).latency_s.mean()
    more = serve(
        requests, times(100, 0.1), Cloud(BatchTimes(np.array([0.003])), 2)
    ).latency_s.mean()
    faster = serve(
        requests, times(100, 0.05), Cloud(BatchTimes(np.array([0.003])))
    ).latency_s.mean()
    assert more <= base
    assert faster < base


def test_summaries() -> None:
    requests = Requests(np.array([0, 1, 2, 2]), np.array([0.0, 5.0, 10.0, 15.0]))
    found = serve(requests, times(4), Cloud(BatchTimes(np.array([0.1])), 2, 0.0, 3.6))
    groups = by_class(found, np.array(["mcu", "sbc", "mcu", "phone"]), 141.5)
    assert [(group.device_class, group.requests) for group in groups] == [
        ("mcu", 3),
        ("sbc", 1),
        ("all", 4),
    ]
    assert groups[-1].p50_ms == pytest.approx(141.0)  # 20 + 100 + 1 + 20
    assert groups[-1].deadline_miss_share == 0.0
    assert by_class(found, np.array(["a"] * 4), 140.0)[0].deadline_miss_share == 1.0
    # 3.6 an hour for two servers over 15.1 s, of which they are busy for 0.4 s, and four requests
    assert found.cost_per_1000.provisioned == pytest.approx(3.6 * 2 * 15.1 / 3600 / 4 * 1000)
    assert found.cost_per_1000.busy == pytest.approx(3.6 * 0.4 / 3600 / 4 * 1000)


def test_nothing_to_serve() -> None:
    found = serve(
        poisson_requests(np.zeros(3), 10.0, 0), times(3), Cloud(BatchTimes(np.array([0.1])))
    )
    assert (len(found.latency_s), found.utilisation, found.cost_per_1000.busy) == (0, 0.0, None)
    assert by_class(found, np.array(["a", "b", "c"]), 10.0)[-1].requests == 0


def test_recorded_requests(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    path.write_text("device,arrival_s,note\n1,5,x\n0,7,\n1,2,\n")
    requests = recorded_requests(path, 2)
    assert requests.device.tolist() == [0, 1, 1]
    assert requests.arrival_s.tolist() == [7.0, 2.0, 5.0]
    for row, says in (
        ("2,1", "row 5, column 'device': must be a whole number from 0 to 1"),
        ("0.5,1", "column 'device'"),
        ("0,-1", "row 5, column 'arrival_s': must be a number of at least 0"),
    ):
        path.write_text(f"device,arrival_s\n1,5\n0,7\n1,2\n{row}\n")
        with pytest.raises(UserError, match=says):
            recorded_requests(path, 2)
