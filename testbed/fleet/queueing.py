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


def batched(
    arrival_s: Floats, batch_service_s: Floats, servers: int = 1, window_s: float = 0.0
) -> BatchServing:
    """Serve requests in batches.

    A free server waits until its batch is full or ``window_s`` has passed since the first request
    in it arrived, and takes the requests that have arrived by then, at most as many as
    ``batch_service_s`` has entries. With no window it takes what is there.

    Parameters
    ----------
    arrival_s : (N,) in order.
    batch_service_s : (B,) seconds that a batch of 1, 2, ..., B requests takes.
    servers : equal servers that share the queue.
    window_s : how long a server waits for a batch to fill.
    """
    largest = len(batch_service_s)
    if largest == 1:
        service = np.full(len(arrival_s), float(batch_service_s[0]))
        starts = several_servers_starts(arrival_s, service, servers)
        return BatchServing(starts, service, len(arrival_s), float(service.sum()))
    arrivals, durations = arrival_s.tolist(), batch_service_s.tolist()
    free_at = [0.0] * servers
    starts_of_batches, sizes = [], []
    first, count = 0, len(arrivals)
    while first < count:
        ready = arrivals[first] + window_s
        full = first + largest - 1
        if full < count and arrivals[full] < ready:
            ready = arrivals[full]
        start = max(free_at[0], ready, arrivals[first])
        after = bisect_right(arrivals, start, first, min(first + largest, count))
        after = max(after, first + 1)
        heapq.heapreplace(free_at, start + durations[after - first - 1])
        starts_of_batches.append(start)
        sizes.append(after - first)
        first = after
    each = np.asarray(sizes, dtype=np.int64)
    service_of_batches = batch_service_s[each - 1] if len(each) else np.zeros(0)
    return BatchServing(
        np.repeat(np.asarray(starts_of_batches, dtype=np.float64), each),
        np.repeat(service_of_batches, each),
        len(each),
        float(service_of_batches.sum()),
    )
