"""The cloud's queue in a run: closed forms, limits of batching, equality with load runs."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.serving import Request
from testbed.engine.hosts.host import node_of
from testbed.engine.network.grid import RequestCharges
from testbed.engine.network.ledger import Charge
from testbed.engine.serving.cloud_queue import CloudTimes
from testbed.engine.serving.timing import time_requests
from testbed.fleet.queueing import BatchTimes, batched
from testbed.fleet.serving_load import Cloud, DeviceTimes, Requests, serve

MANY = 40_000


def charges(compute_ms=0.0, uplink_ms=0.0, downlink_ms=0.0, raw=False):
    features = Charge(1, 1, compute_ms, uplink_ms, 0.0, None)
    return RequestCharges(features, Charge(1, 1, 0.0, 0.0, downlink_ms, None), raw)


def at_the_cloud(arrival_ms, times, raw=None, tier=None):
    """Send requests of one device each straight to the cloud; return their times, by number."""
    requests = [Request(n, node_of(n), 0, at / 1000.0) for n, at in enumerate(arrival_ms)]
    raw = raw if raw is not None else [False] * len(requests)
    times = replace(times, tier_of={node_of(n): t for n, t in enumerate(tier or [])})
    return time_requests(requests, {n: charges(raw=raw[n]) for n in range(len(raw))}, times)


def column(served, name):
    return np.array([getattr(served.timings[n], name) for n in range(len(served.timings))])


def poisson_ms(per_ms, seed, count=MANY):
    return np.cumsum(np.random.default_rng(seed).exponential(1.0 / per_ms, count))


def erlang_c(servers, offered):
    below = sum(offered**k / math.factorial(k) for k in range(servers))
    at = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return at / (below + at)


@pytest.mark.parametrize(("servers", "offered"), [(1, 0.7), (2, 1.4), (5, 4.0)])
def test_waiting_matches_m_d_c(servers, offered):
    times = CloudTimes(BatchTimes(np.array([0.001])), servers)
    waits = column(at_the_cloud(poisson_ms(offered, servers), times), "queue_ms")
    # M/D/c waits half as long as M/M/c: exactly with one server, nearly with several.
    m_m_c = erlang_c(servers, offered) / (servers - offered)
    assert waits.mean() == pytest.approx(m_m_c / 2.0, rel=0.05 if servers == 1 else 0.15)


def test_waiting_matches_m_g_1():
    """Raw images take longer: the mean wait is lambda E[S^2] / 2 (1 - rho), Pollaczek-Khinchine."""
    rng = np.random.default_rng(3)
    raw = rng.random(MANY) < 0.3
    times = CloudTimes(BatchTimes(np.array([0.001]), np.array([0.004])))
    per_ms = 0.3
    served = at_the_cloud(poisson_ms(per_ms, 4), times, raw.tolist())
    mean, second = 0.7 * 1.0 + 0.3 * 5.0, 0.7 * 1.0 + 0.3 * 25.0
    expected = per_ms * second / (2.0 * (1.0 - per_ms * mean))
    assert column(served, "queue_ms").mean() == pytest.approx(expected, rel=0.08)
    assert served.cloud_utilisation == pytest.approx(per_ms * mean, rel=0.03)


def test_littles_law():
    times = CloudTimes(BatchTimes(np.array([0.001, 0.0015, 0.002])), 2, 0.5)
    arrival = poisson_ms(1.2, 5)
    served = at_the_cloud(arrival, times)
    leaves = arrival + column(served, "queue_ms") + column(served, "cloud_ms")
    moments = np.concatenate([arrival, leaves])
    change = np.concatenate([np.ones(MANY), -np.ones(MANY)])
    order = np.argsort(moments, kind="stable")
    inside = np.cumsum(change[order])[:-1]
    average = float(np.sum(inside * np.diff(moments[order]))) / served.span_ms
    mean_ms = (leaves - arrival).mean()
    assert average == pytest.approx(MANY / served.span_ms * mean_ms, rel=1e-6)
    assert served.busy_ms == pytest.approx(column(served, "cloud_share_ms").sum())
    assert served.batches == pytest.approx((1.0 / column(served, "batch_size")).sum())


def test_no_window_and_batches_of_one_are_the_plain_queue():
    arrival = poisson_ms(0.8, 6, 5000)
    plain = at_the_cloud(arrival, CloudTimes(BatchTimes(np.array([0.001]))))
    # The same cloud, allowed batches that are never quicker than one by one, and no window.
    slow = BatchTimes(np.array([0.001, 0.002, 0.003]))
    batches = at_the_cloud(arrival, CloudTimes(slow))
    assert batches.busy_ms == pytest.approx(plain.busy_ms)
    assert set(column(plain, "batch_size")) == {1}
    idle = at_the_cloud([0.0, 100.0, 200.0], CloudTimes(slow))
    assert column(idle, "queue_ms").tolist() == [0.0, 0.0, 0.0]


def test_a_huge_window_fills_every_batch_but_the_last():
    arrival = np.arange(10.0)
    times = CloudTimes(BatchTimes(np.array([0.5, 0.6, 0.7, 0.8]) / 1000), 1, 1e6)
    served = at_the_cloud(arrival, times)
    sizes = column(served, "batch_size").tolist()
    assert sizes == [4, 4, 4, 4, 4, 4, 4, 4, 2, 2]
    waits = column(served, "queue_ms")
    assert waits[:8].tolist() == pytest.approx([3.0, 2.0, 1.0, 0.0] * 2)
    assert waits[8:] == pytest.approx([1e6, 1e6 - 1.0])  # the window, from the batch's first on


def test_tiers_of_a_batch_run_one_after_another_and_share_their_own_time():
    batch = BatchTimes(np.array([[0.004, 0.006, 0.008], [0.010, 0.012, 0.014]]))
    served = at_the_cloud([0.0, 1.0, 2.0], CloudTimes(batch, 1, 5.0), tier=[0, 1, 0])
    assert column(served, "cloud_ms").tolist() == pytest.approx([16.0] * 3)
    assert column(served, "cloud_share_ms").tolist() == pytest.approx([3.0, 10.0, 3.0])
    assert batched(
        np.array([0.0, 0.001, 0.002]), batch, 1, 0.005, np.array([0, 1, 0])
    ).service_s == pytest.approx([0.016] * 3)


def test_raw_images_share_their_own_time():
    batch = BatchTimes(np.array([0.004, 0.006]), np.array([0.010, 0.015]))
    served = at_the_cloud([0.0, 1.0], CloudTimes(batch, 1, 5.0), [True, False])
    assert column(served, "cloud_ms").tolist() == pytest.approx([16.0, 16.0])
    assert column(served, "cloud_share_ms").tolist() == pytest.approx([13.0, 3.0])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.booleans(), st.integers(0, 1)), min_size=1, max_size=30
    ),
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from([0.0, 1.2713, 4.3171]),
)
def test_the_same_batches_as_under_load(asked, largest, servers, window_ms):
    arrivals, raw, tier = (list(column) for column in zip(*sorted(asked), strict=True))
    # Odd figures: where a request came at the very moment of a start, rounding would decide.
    answer_s = 0.0015317 + 0.0004729 * np.arange(largest)
    front_end_s = 0.0010103 * (1.0 + np.arange(largest))
    # two tiers: the second's front-end and way through the cloud model take twice as long
    batch = BatchTimes(np.stack([answer_s, 2 * answer_s]), np.stack([front_end_s, 2 * front_end_s]))
    window_ms = window_ms if largest > 1 else 0.0
    times = CloudTimes(batch, servers, window_ms)
    run = at_the_cloud([float(at) for at in arrivals], times, raw, tier)
    arrival_s = np.array(arrivals, dtype=np.float64) / 1000.0
    load = batched(arrival_s, batch, servers, window_ms / 1000.0, np.array(tier), np.array(raw))
    waited_ms = (load.start_s - arrival_s) * 1000.0
    assert column(run, "queue_ms") == pytest.approx(waited_ms, abs=1e-6)
    assert column(run, "cloud_ms") == pytest.approx(load.service_s * 1000.0, abs=1e-6)
    assert (run.batches, run.busy_ms) == (load.batches, pytest.approx(load.busy_s * 1000.0))


def test_the_whole_path_takes_as_long_as_under_load():
    rng = np.random.default_rng(7)
    devices, count = 5, 400
    device = np.sort(rng.integers(0, devices, count))
    arrival_s = np.concatenate(
        [np.sort(rng.uniform(0, 20.0, int((device == d).sum()))) for d in range(devices)]
    )
    compute_s, uplink_s = rng.uniform(0.005, 0.1, devices), rng.uniform(0.005, 0.15, devices)
    downlink_s, one_way_s = rng.uniform(0.001, 0.01, devices), rng.uniform(0.01, 0.1, devices)
    raw = np.array([False, True, False, False, True])
    batch = BatchTimes(np.array([0.02, 0.03, 0.04]), np.array([0.01, 0.02, 0.03]))
    load = serve(
        Requests(device, arrival_s),
        DeviceTimes(compute_s, uplink_s, downlink_s, one_way_s, raw=raw),
        Cloud(batch, 2, 0.01),
    )
    order = np.argsort(arrival_s, kind="stable")
    requests = [Request(int(n), node_of(int(device[n])), 0, float(arrival_s[n])) for n in order]
    way_ms = one_way_s * 1000.0
    charged = {
        n: charges(
            compute_s[d] * 1000.0,
            uplink_s[d] * 1000.0 + way_ms[d],
            downlink_s[d] * 1000.0 + way_ms[d],
            bool(raw[d]),
        )
        for n, d in enumerate(device)
    }
    run = time_requests(requests, charged, CloudTimes(batch, 2, 10.0), one_way_ms=way_ms)
    assert column(run, "latency_ms") == pytest.approx(load.latency_s * 1000.0, rel=1e-9)
    assert run.cloud_utilisation == pytest.approx(load.utilisation)
    assert run.span_ms == pytest.approx(load.span_s * 1000.0)
    assert run.batches == load.batches < count
