"""The cloud's queue in virtual time: requests wait for a batch and a free server.

Batches start as in ``testbed.fleet.queueing.batched``, which serves whole arrays of requests. Here
arrivals depend on earlier answers (an answer keeps a radio awake) and are not known in advance.
"""

import heapq
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from testbed.fleet.queueing import BatchTimes, batch_start

MS = 1000.0


@dataclass(frozen=True)
class CloudTimes:
    """The cloud's servers and their service times.

    Attributes
    ----------
    batch : service times by the size of a batch.
    servers : equal servers that share one queue.
    window_ms : how long a batch waits to fill, from its first request.
    tier_of : the tier of each node; missing nodes are in tier 0.
    """

    batch: BatchTimes
    servers: int = 1
    window_ms: float = 0.0
    tier_of: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Requests that one server answers together.

    Attributes
    ----------
    waited_ms : each request's time from its arrival to the start.
    share_ms : each request's share of the server's time. A tier's requests share its time in the
        cloud model equally; its raw images also share their time in the front-end.
    """

    requests: list[int]
    waited_ms: list[float]
    share_ms: list[float]
    service_ms: float
    ends_ms: float


@dataclass
class CloudQueue:
    """Batching servers with one queue, first come first served."""

    times: CloudTimes
    batches: int = 0
    busy_ms: float = 0.0
    first_ms: float | None = None
    last_ms: float = 0.0
    _waiting: deque[tuple[float, int, int, bool]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._free_at = [0.0] * self.times.servers

    @property
    def span_ms(self) -> float:
        """Return the time from the first arrival to the end of the last service."""
        return self.last_ms - self.first_ms if self.first_ms is not None else 0.0

    def arrive(self, request: int, tier: int, raw: bool, now_ms: float) -> float:
        """Queue a request; return when to call ``start`` for it."""
        if self.first_ms is None:
            self.first_ms = now_ms
        self._waiting.append((now_ms, request, tier, raw))
        return max(now_ms, self._due_ms())

    def _due_ms(self) -> float:
        """Return when the next batch starts unless more requests fill it earlier."""
        largest = self.times.batch.largest
        full_ms = self._waiting[largest - 1][0] if len(self._waiting) >= largest else None
        return batch_start(self._waiting[0][0], full_ms, self.times.window_ms, self._free_at[0])

    def start(self, now_ms: float) -> tuple[Batch | None, float | None]:
        """Start a batch if one is due.

        Returns
        -------
        The batch, or None if none is due; and when to call again, or None if no request waits.
        """
        if not self._waiting or self._due_ms() > now_ms:
            return None, None
        size = min(len(self._waiting), self.times.batch.largest)
        taken = [self._waiting.popleft() for _ in range(size)]
        shares_ms = self._shares_ms([(tier, raw) for _, _, tier, raw in taken])
        service_ms = sum(shares_ms)
        ends_ms = now_ms + service_ms
        heapq.heapreplace(self._free_at, ends_ms)
        self.batches += 1
        self.busy_ms += service_ms
        self.last_ms = max(self.last_ms, ends_ms)
        batch = Batch(
            [request for _, request, _, _ in taken],
            [now_ms - arrived_ms for arrived_ms, _, _, _ in taken],
            shares_ms,
            service_ms,
            ends_ms,
        )
        return batch, max(now_ms, self._due_ms()) if self._waiting else None

    def _shares_ms(self, taken: list[tuple[int, bool]]) -> list[float]:
        """Return each request's share of the service time."""
        of_tier = Counter(tier for tier, _ in taken)
        raw_of_tier = Counter(tier for tier, raw in taken if raw)
        times = self.times.batch
        answer_s = {tier: times.answer_s(tier, count) / count for tier, count in of_tier.items()}
        raw_s = {tier: times.raw_s(tier, count) / count for tier, count in raw_of_tier.items()}
        return [(answer_s[tier] + (raw_s[tier] if is_raw else 0.0)) * MS for tier, is_raw in taken]
