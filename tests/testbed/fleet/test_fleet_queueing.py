"""Queues against slow references and closed forms."""

import heapq
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from testbed.fleet.queueing import (
    BatchTimes,
    batched,
    grouped_single_server_starts,
    several_servers_starts,
    single_server_starts,
)

Floats = NDArray[np.float64]
TIMES = st.lists(st.tuples(st.floats(0.0, 50.0), st.floats(0.001, 5.0)), min_size=1, max_size=40)
MANY = 200_000


def columns(times: list[tuple[float, float]]) -> tuple[Floats, Floats]:
    ordered = sorted(times)
    return np.array([a for a, _ in ordered]), np.array([s for _, s in ordered])


def reference_starts(arrival: Floats, service: Floats, servers: int) -> list[float]:
    """Walk through the requests one by one."""
    free, starts = [0.0] * servers, []
    for a, s in zip(arrival, service, strict=True):
        start = max(a, heapq.heappop(free))
        heapq.heappush(free, start + s)
        starts.append(start)
    return starts


@given(TIMES, st.integers(1, 5))
def test_servers_against_the_reference(times: list[tuple[float, float]], servers: int) -> None:
    arrival, service = columns(times)
    assert np.allclose(
        several_servers_starts(arrival, service, servers),
        reference_starts(arrival, service, servers),
    )
    equal = np.full(len(arrival), float(service[0]))
    assert np.allclose(
        several_servers_starts(arrival, equal, servers), reference_starts(arrival, equal, servers)
    )


@given(st.lists(TIMES, min_size=1, max_size=80))
@settings(max_examples=30)
def test_groups_are_independent_queues(groups: list[list[tuple[float, float]]]) -> None:
    parts = [columns(times) for times in groups]
    group = np.repeat(np.arange(len(parts)) * 7, [len(a) for a, _ in parts])
    found = grouped_single_server_starts(
        group, np.concatenate([a for a, _ in parts]), np.concatenate([s for _, s in parts])
    )
    expected = np.concatenate([single_server_starts(a, s) for a, s in parts])
    assert np.allclose(found, expected, atol=1e-9)


def test_no_requests() -> None:
    empty = np.zeros(0)
    assert len(single_server_starts(empty, empty)) == 0
    assert len(grouped_single_server_starts(np.zeros(0, dtype=np.int64), empty, empty)) == 0
    assert len(several_servers_starts(empty, empty, 3)) == 0
    assert batched(empty, BatchTimes(np.array([1.0, 1.5]))).batches == 0


def reference_batches(
    arrival: Floats, duration: Floats, servers: int, window: float
) -> tuple[list[float], list[float]]:
    """Form batches by scanning all requests at every step."""
    free = [0.0] * servers
    waiting = list(arrival)
    starts, services = [], []
    while waiting:
        server = min(range(servers), key=lambda index: free[index])
        full = waiting[len(duration) - 1] if len(waiting) >= len(duration) else math.inf
        start = max(free[server], min(waiting[0] + window, full))
        size = min(sum(a <= start for a in waiting), len(duration))
        free[server] = start + duration[size - 1]
        starts += [start] * size
        services += [duration[size - 1]] * size
        waiting = waiting[size:]
    return starts, services


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=40),
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from([0.0, 1.0, 4.0]),
)
def test_batches_against_the_reference(
    arrivals: list[int], largest: int, servers: int, window: float
) -> None:
    arrival = np.sort(np.array(arrivals, dtype=np.float64))
    duration = 1.5 + 0.5 * np.arange(largest)
    # a batch of one does not wait
    window = window if largest > 1 else 0.0
    found = batched(arrival, BatchTimes(duration), servers, window)
    starts, services = reference_batches(arrival, duration, servers, window)
    assert found.start_s.tolist() == starts
    assert found.service_s.tolist() == services
    assert found.busy_s == pytest.approx(
        sum(duration[size - 1] for size in batch_sizes(found.start_s, found.service_s, duration))
    )


def batch_sizes(starts: Floats, services: Floats, duration: Floats) -> list[int]:
    """Recover the batch sizes: a batch's service time tells its size."""
    sizes, position = [], 0
    while position < len(starts):
        size = int(np.flatnonzero(duration == services[position])[0]) + 1
        sizes.append(size)
        position += size
    return sizes


def poisson(rate: float, rng: np.random.Generator) -> Floats:
    return np.cumsum(rng.exponential(1.0 / rate, MANY))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_m_m_1(load: float) -> None:
    """Mean wait in M/M/1: load / (mu - lambda), with mu = 1."""
    rng = np.random.default_rng(1)
    arrival, service = poisson(load, rng), rng.exponential(1.0, MANY)
    wait = (single_server_starts(arrival, service) - arrival).mean()
    assert wait == pytest.approx(load / (1.0 - load), rel=0.06)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_m_d_1(load: float) -> None:
    """Mean wait in M/D/1: half of M/M/1's (Pollaczek and Khinchine)."""
    rng = np.random.default_rng(2)
    arrival = poisson(load, rng)
    wait = (single_server_starts(arrival, np.ones(MANY)) - arrival).mean()
    assert wait == pytest.approx(load / (2.0 * (1.0 - load)), rel=0.05)


def erlang_c(servers: int, offered: float) -> float:
    """Return the probability of waiting in M/M/c at ``offered`` = lambda / mu."""
    below = sum(offered**k / math.factorial(k) for k in range(servers))
    at = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return at / (below + at)


@pytest.mark.parametrize(("servers", "offered"), [(2, 1.4), (5, 4.0), (10, 7.0)])
def test_m_m_c(servers: int, offered: float) -> None:
    rng = np.random.default_rng(3)
    arrival, service = poisson(offered, rng), rng.exponential(1.0, MANY)
    wait = several_servers_starts(arrival, service, servers) - arrival
    waits = erlang_c(servers, offered)
    assert (wait > 1e-12).mean() == pytest.approx(waits, rel=0.03)
    assert wait.mean() == pytest.approx(waits / (servers - offered), rel=0.06)


def test_littles_law() -> None:
    """Time average of requests in the system equals arrival rate times mean time in it."""
    rng = np.random.default_rng(4)
    arrival, service = poisson(0.7, rng), rng.exponential(1.0, MANY)
    departure = single_server_starts(arrival, service) + service
    moments = np.concatenate([arrival, departure])
    change = np.concatenate([np.ones(MANY), -np.ones(MANY)])
    order = np.argsort(moments, kind="stable")
    inside = np.cumsum(change[order])[:-1]
    span = departure.max()
    average = float(np.sum(inside * np.diff(moments[order]))) / span
    assert average == pytest.approx(MANY / span * (departure - arrival).mean(), rel=1e-6)
    assert average == pytest.approx(0.7 / 0.3, rel=0.05)


def test_batching_keeps_up_where_single_service_cannot() -> None:
    rng = np.random.default_rng(5)
    arrival = poisson(1.5, rng)  # 1.5 times the capacity of a server without batches
    found = batched(arrival, BatchTimes(0.9 + 0.1 * np.arange(1, 17)))
    assert (found.start_s - arrival).mean() < 5.0
    assert found.busy_s / arrival[-1] < 1.01
    assert MANY / found.batches > 1.5
