"""Queues in virtual time, first come first served: one server, several, and batching servers.

All functions take whole arrays of requests, and are vectorised where that is exact.
"""

import heapq
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

GROUPS_PER_PASS = 64
"""Groups per cumulative maximum. An offset separates their times. With few groups the offset, and
thus its rounding error, stays small (10 ns in a day)."""


def single_server_starts(arrival_s: Floats, service_s: Floats) -> Floats:
    """Return when each request's service starts at one server.

    Parameters
    ----------
    arrival_s : (N,) in order.
    service_s : (N,) how long each takes.

    Notes
    -----
    Lindley's recursion D_i = max(A_i, D_{i-1}) + S_i, solved with running sums and maxima:
    D_i = C_i + max_{j <= i} (A_j - C_{j-1}), with C the running sum of S.
    """
    finished = np.cumsum(service_s)
    begun = finished - service_s
    starts: Floats = np.maximum.accumulate(arrival_s - begun) + begun
    return np.maximum(starts, arrival_s)  # rounding must not start a service early


def grouped_single_server_starts(group: Integers, arrival_s: Floats, service_s: Floats) -> Floats:
    """Return when each request's service starts, with one server per group.

    Parameters
    ----------
    group : (N,) in order; the server of each request.
    arrival_s : (N,) in order within each group.
    service_s : (N,) how long each takes.
    """
    starts = np.empty_like(arrival_s)
    if not len(group):
        return starts
    firsts = np.flatnonzero(np.diff(group, prepend=group[0] - 1))
    edges = np.append(firsts, len(group))
    for first in range(0, len(firsts), GROUPS_PER_PASS):
        last = min(first + GROUPS_PER_PASS, len(firsts))
        rows = slice(edges[first], edges[last])
        sizes = np.diff(edges[first : last + 1])
        starts[rows] = _some_groups(arrival_s[rows], service_s[rows], sizes)
    return starts


def _some_groups(arrival_s: Floats, service_s: Floats, sizes: Integers) -> Floats:
    """Solve Lindley's recursion for a few consecutive groups."""
    total = np.cumsum(service_s)
    firsts = np.cumsum(sizes) - sizes
    # running sum before each request, from 0 in every group
    begun = total - service_s - np.repeat(total[firsts] - service_s[firsts], sizes)
    slack = arrival_s - begun
    span = float(slack.max() - slack.min()) + 1.0
    offset = np.repeat(np.arange(len(sizes)) * span, sizes)
    starts: Floats = np.maximum.accumulate(slack + offset) - offset + begun
    return np.maximum(starts, arrival_s)


def several_servers_starts(arrival_s: Floats, service_s: Floats, servers: int) -> Floats:
    """Return when each request's service starts with ``servers`` equal servers and one queue."""
    if servers == 1:
        return single_server_starts(arrival_s, service_s)
    if len(service_s) and service_s.min() == service_s.max():
        # equal service times end in the order of their starts: servers serve in turn
        starts = np.empty_like(arrival_s)
        for turn in range(servers):
            rows = slice(turn, None, servers)
            starts[rows] = single_server_starts(arrival_s[rows], service_s[rows])
        return starts
    free_at = [0.0] * min(servers, max(len(arrival_s), 1))
    begun = []
    for arrival, service in zip(arrival_s.tolist(), service_s.tolist(), strict=True):
        start = max(arrival, free_at[0])
        heapq.heapreplace(free_at, start + service)
        begun.append(start)
    return np.asarray(begun, dtype=np.float64)


@dataclass(frozen=True)
class BatchTimes:
    """Service times of a batch at the cloud; the requests of each tier are processed together.

    Attributes
    ----------
    cloud_s : (T, B) seconds of the cloud model on 1 to B requests of a tier; B is the largest
        batch. (B,) stands for one tier.
    front_end_s : (T, B) additional seconds for 1 to B raw images among them; None: no raw images.
    """

    cloud_s: Floats
    front_end_s: Floats | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "cloud_s", np.atleast_2d(self.cloud_s))
        if self.front_end_s is not None:
            object.__setattr__(self, "front_end_s", np.atleast_2d(self.front_end_s))

    @property
    def largest(self) -> int:
        """Return the maximum batch size."""
        return int(self.cloud_s.shape[1])

    def answer_s(self, tier: int, count: int) -> float:
        """Return the seconds of ``count`` requests of a tier, without those of raw images."""
        return float(self.cloud_s[tier, count - 1]) if count else 0.0

    def raw_s(self, tier: int, count: int) -> float:
        """Return the additional seconds of a batch for ``count`` raw images of a tier.

        Raises
        ------
        ValueError : the front-end's service time is unknown.
        """
        if not count:
            return 0.0
        if self.front_end_s is None:
            raise ValueError("raw images arrived, but the front-end's service time is unknown")
        return float(self.front_end_s[tier, count - 1])


@dataclass(frozen=True)
class BatchServing:
    """Starts and services of batching servers.

    Attributes
    ----------
    start_s, service_s : (N,) start and duration of each request's batch.
    batches : number of batches.
    busy_s : seconds of service, summed over the servers.
    """

    start_s: Floats
    service_s: Floats
    batches: int
    busy_s: float


def batch_start(first: float, full: float | None, window: float, server_free: float) -> float:
    """Return when a batch starts; all times in one unit.

    A free server waits until its batch is full or its window has passed, and takes the requests
    that have arrived by then, at most as many as fit. With no window it takes those that wait.

    Parameters
    ----------
    first, full : arrival of the first request, and of the one that fills the batch, if known.
    window : how long a batch waits to fill, from its first request on.
    server_free : when the first server is free.
    """
    ready = first + window
    return max(ready if full is None else min(ready, full), server_free)


def batched(
    arrival_s: Floats,
    times: BatchTimes,
    servers: int = 1,
    window_s: float = 0.0,
    tier: Integers | None = None,
    raw: NDArray[np.bool_] | None = None,
) -> BatchServing:
    """Serve requests in batches; ``batch_start`` decides when each starts.

    Parameters
    ----------
    arrival_s : (N,) in order.
    servers : equal servers that share the queue.
    tier : (N,) the requests' tiers; None: all in the first.
    raw : (N,) whether each request is a raw image; None: none is.
    """
    largest = times.largest
    if largest == 1:
        service = _single_service_s(len(arrival_s), times, tier, raw)
        starts = several_servers_starts(arrival_s, service, servers)
        return BatchServing(starts, service, len(arrival_s), float(service.sum()))
    arrivals = arrival_s.tolist()
    parts = _parts(len(arrivals), times, tier, raw)
    free_at = [0.0] * servers
    starts_of_batches, sizes, service_of_batches = [], [], []
    first, count = 0, len(arrivals)
    while first < count:
        full = first + largest - 1
        full_at = arrivals[full] if full < count else None
        start = batch_start(arrivals[first], full_at, window_s, free_at[0])
        after = bisect_right(arrivals, start, first, min(first + largest, count))
        service_s = 0.0
        for seconds, before in parts:
            service_s += seconds[before[after] - before[first] if before else after - first]
        heapq.heapreplace(free_at, start + service_s)
        starts_of_batches.append(start)
        service_of_batches.append(service_s)
        sizes.append(after - first)
        first = after
    each = np.asarray(sizes, dtype=np.int64)
    return BatchServing(
        np.repeat(np.asarray(starts_of_batches, dtype=np.float64), each),
        np.repeat(np.asarray(service_of_batches, dtype=np.float64), each),
        len(each),
        float(sum(service_of_batches)),
    )


def _single_service_s(
    count: int, times: BatchTimes, tier: Integers | None, raw: NDArray[np.bool_] | None
) -> Floats:
    """Return the service time of every request in a batch of one."""
    of = np.zeros(count, dtype=np.int64) if tier is None else tier
    service: Floats = times.cloud_s[of, 0]
    if raw is not None and raw.any():
        assert times.front_end_s is not None
        service = service + np.where(raw, times.front_end_s[of, 0], 0.0)
    return service


Part = tuple[list[float], list[int] | None]
"""A term of a batch's service time: seconds by the number of its requests of one kind, and how many
requests of that kind precede each request (and the end); None: all requests are of that kind."""


def _parts(
    count: int, times: BatchTimes, tier: Integers | None, raw: NDArray[np.bool_] | None
) -> list[Part]:
    """Return the terms of a batch's service time: by tier, of the requests and of raw images."""
    parts: list[Part] = []
    for number in range(len(times.cloud_s)):
        of_tier = np.ones(count, dtype=np.bool_) if tier is None else tier == number
        raw_of_tier = None if raw is None else of_tier & raw
        if of_tier.any():
            before = None if of_tier.all() else _before(of_tier)
            parts.append(([0.0, *times.cloud_s[number].tolist()], before))
        if raw_of_tier is not None and raw_of_tier.any():
            assert times.front_end_s is not None
            parts.append(([0.0, *times.front_end_s[number].tolist()], _before(raw_of_tier)))
        if tier is None:
            break
    return parts


def _before(counted: NDArray[np.bool_]) -> list[int]:
    before = np.zeros(len(counted) + 1, dtype=np.int64)
    np.cumsum(counted, out=before[1:])
    listed: list[int] = before.tolist()
    return listed
