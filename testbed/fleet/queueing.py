"""Queues in virtual time, first come first served: one server, several, and batching servers.

All work on whole arrays of requests; what can be vectorised exactly is.
"""

import heapq
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

GROUPS_PER_PASS = 64
"""Groups that one cumulative maximum runs over: their times are told apart by an offset, and few
groups keep the offset, and so its rounding, small (10 ns in a day)."""


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
    """Return when each request's service starts, with one server per group (for every device).

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
    """Solve Lindley's recursion for a few groups that lie one behind the other."""
    total = np.cumsum(service_s)
    firsts = np.cumsum(sizes) - sizes
    # running sum before each request, starting anew in every group
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
        # equal service times end in the order they began: the servers take turns
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
    """What a batch takes at the cloud: its requests of each tier run through the model by tier.

    Attributes
    ----------
    cloud_s : (T, B) seconds of the cloud model on 1 to B requests of a tier; B is the largest
        batch. (B,) stands for one tier.
    front_end_s : (T, B) seconds more for 1 to B raw images among them; None: none come raw.
    """

    cloud_s: Floats
    front_end_s: Floats | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "cloud_s", np.atleast_2d(self.cloud_s))
        if self.front_end_s is not None:
            object.__setattr__(self, "front_end_s", np.atleast_2d(self.front_end_s))

    @property
    def largest(self) -> int:
        """Return how many requests fit into a batch."""
        return int(self.cloud_s.shape[1])

    def answer_s(self, tier: int, count: int) -> float:
        """Return how long ``count`` requests of a tier take, apart from raw images."""
        return float(self.cloud_s[tier, count - 1]) if count else 0.0

    def raw_s(self, tier: int, count: int) -> float:
        """Return how much longer a batch takes for ``count`` raw images of a tier.

        Raises
        ------
        ValueError : nobody knows how long the front-end takes.
        """
        if not count:
            return 0.0
        if self.front_end_s is None:
            raise ValueError("raw images came, and no time is known for the front-end")
        return float(self.front_end_s[tier, count - 1])


@dataclass(frozen=True)
class BatchServing:
    """What batching servers did.

    Attributes
    ----------
    start_s, service_s : (N,) when each request's batch started, and how long the batch took.
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
    """Serve requests in batches, each of which starts as ``batch_start`` says.

    Parameters
    ----------
    arrival_s : (N,) in order.
    servers : equal servers that share the queue.
    tier : (N,) the requests' tiers; None: all in the first.
    raw : (N,) which requests are raw images; None: none.
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
    """Return what every request takes alone."""
    of = np.zeros(count, dtype=np.int64) if tier is None else tier
    service: Floats = times.cloud_s[of, 0]
    if raw is not None and raw.any():
        assert times.front_end_s is not None
        service = service + np.where(raw, times.front_end_s[of, 0], 0.0)
    return service


Part = tuple[list[float], list[int] | None]
"""Seconds by the number of a batch's requests that count, from 0 on, and how many of these come
before each request and after the last; None: all count."""


def _parts(
    count: int, times: BatchTimes, tier: Integers | None, raw: NDArray[np.bool_] | None
) -> list[Part]:
    """Return what a batch's time is the sum of: by tier, the requests and the raw images."""
    parts: list[Part] = []
    for number in range(len(times.cloud_s)):
        own = None if tier is None else tier == number
        alone = own is None or own.all()
        if alone or (own is not None and own.any()):
            seconds = [0.0, *times.cloud_s[number].tolist()]
            parts.append((seconds, None if alone or own is None else _before(own)))
        own_raw = raw if own is None or raw is None else own & raw
        if own_raw is not None and own_raw.any():
            assert times.front_end_s is not None
            parts.append(([0.0, *times.front_end_s[number].tolist()], _before(own_raw)))
        if tier is None:
            break
    return parts


def _before(counted: NDArray[np.bool_]) -> list[int]:
    before = np.zeros(len(counted) + 1, dtype=np.int64)
    np.cumsum(counted, out=before[1:])
    listed: list[int] = before.tolist()
    return listed
