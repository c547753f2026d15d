"""The victims' requests: when they arrive, and their time through device, link and cloud."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.serving import Request
from testbed.core.seeds import generator
from testbed.engine.grid import RequestCharges
from testbed.engine.host import device_of, node_of
from testbed.engine.ledger import Charge
from testbed.fleet.link_effects import RadioTimers


def draw_requests(
    victims: NDArray[np.int64], owners: NDArray[np.int64], horizon_s: float, seed: int
) -> list[Request]:
    """Return one request per victim image, in the order of arrival.

    Given their number, the arrivals of a Poisson process are uniform over the horizon.

    Parameters
    ----------
    victims : image indices.
    owners : the device that holds each of them.
    """
    arrivals = generator(seed, "request arrivals").uniform(0.0, horizon_s, len(victims))
    order = np.argsort(arrivals, kind="stable")
    return [
        Request(number, node_of(int(owners[index])), int(victims[index]), float(arrivals[index]))
        for number, index in enumerate(order)
    ]


@dataclass(frozen=True)
class Timing:
    """Where the milliseconds of one answered request went.

    Attributes
    ----------
    uplink_ms : sending, with the time that the radio took to wake up.
    wake_ms : that time alone.
    queue_ms : waiting for the device, for its link and at the cloud, together.
    """

    compute_ms: float
    uplink_ms: float
    queue_ms: float
    cloud_ms: float
    downlink_ms: float
    wake_ms: float = 0.0

    @property
    def latency_ms(self) -> float:
        """Return the time from the request to its answer on the device."""
        parts = (self.compute_ms, self.uplink_ms, self.queue_ms, self.cloud_ms, self.downlink_ms)
        return sum(parts)


@dataclass(frozen=True)
class ServedTimes:
    """Timings by request id, and how busy the cloud was over the span it served."""

    timings: dict[int, Timing]
    cloud_utilisation: float


@dataclass(frozen=True)
class CloudTimes:
    """What a request takes at the cloud.

    Attributes
    ----------
    answer_ms : the cloud model on one request, by tier.
    front_end_ms : the front-end, for a request that came as a raw image, by tier.
    servers : how many requests are served at once.
    tier_of : the tier of each node; nodes that are missing are in tier 0.
    """

    answer_ms: Sequence[float]
    front_end_ms: Sequence[float] = (0.0,)
    servers: int = 1
    tier_of: Mapping[int, int] = field(default_factory=dict)

    def service_ms(self, node: int, charges: RequestCharges) -> float:
        """Return how long one request of a node keeps a server busy."""
        tier = self.tier_of.get(node, 0)
        return self.answer_ms[tier] + (self.front_end_ms[tier] if charges.raw else 0.0)


COMPUTED, AT_CLOUD, BACK = range(3)  # events of one request, in their order at equal times


@dataclass
class _Stations:
    """The stations that requests go through, and everything that is known of their times."""

    cloud: CloudTimes
    radio: RadioTimers | None
    link_free: dict[int, float] = field(default_factory=dict)
    timings: dict[int, Timing] = field(default_factory=dict)
    last_ms: float = 0.0
    busy_ms: float = 0.0

    def __post_init__(self) -> None:
        self.server_free = [0.0] * self.cloud.servers
        self.delivered: dict[int, tuple[float, float]] = {}

    def send(self, item: Request, sent: Charge, now_ms: float) -> float:
        """Send a computed request over its device's link; return when the cloud has it."""
        device = device_of(item.node)
        starts_ms = max(now_ms, self.link_free.get(device, 0.0))
        wake_ms = self.radio.wake_ms(device, starts_ms / 1000.0) if self.radio else 0.0
        uplink_ms = wake_ms + sent.uplink_ms
        delivered = self.link_free[device] = starts_ms + uplink_ms
        self._note_active(device, delivered)
        waited = delivered - item.arrival_s * 1000.0 - sent.compute_ms - uplink_ms
        self.delivered[item.request] = (wake_ms, max(0.0, waited))
        return delivered

    def serve(self, item: Request, charges: RequestCharges, now_ms: float) -> float:
        """Serve a request at the cloud; return when its device has the answer."""
        starts_ms = max(now_ms, heapq.heappop(self.server_free))
        service_ms = self.cloud.service_ms(item.node, charges)
        heapq.heappush(self.server_free, starts_ms + service_ms)
        self.last_ms = max(self.last_ms, starts_ms + service_ms)
        self.busy_ms += service_ms
        sent, answer = charges.features, charges.answer
        assert answer is not None
        wake_ms, waited_ms = self.delivered.pop(item.request)
        self.timings[item.request] = Timing(
            sent.compute_ms,
            wake_ms + sent.uplink_ms,
            waited_ms + starts_ms - now_ms,
            service_ms,
            answer.downlink_ms,
            wake_ms,
        )
        return starts_ms + service_ms + answer.downlink_ms

    def receive(self, item: Request, now_ms: float) -> None:
        """Note that a device has its answer."""
        self._note_active(device_of(item.node), now_ms)

    def _note_active(self, device: int, until_ms: float) -> None:
        if self.radio:
            self.radio.active_until(device, until_ms / 1000.0)


def time_requests(
    requests: Sequence[Request],
    charges: dict[int, RequestCharges],
    cloud: CloudTimes,
    radio: RadioTimers | None = None,
) -> ServedTimes:
    """Send the answered requests through three first-come-first-served stations.

    A device computes one request at a time, its link sends one at a time, and the cloud's servers
    share one queue. Events are taken in the order of virtual time, so that a radio is awake after
    everything it sent or received before, and of request numbers at equal times.

    Parameters
    ----------
    radio : the timers of radios that sleep, all of them asleep at first; None never sleep.
    """
    by_number = {
        item.request: item
        for item in requests
        if item.request in charges and charges[item.request].answer
    }
    device_free: dict[int, float] = {}
    events: list[tuple[float, int, int]] = []
    for item in by_number.values():
        starts_ms = max(item.arrival_s * 1000.0, device_free.get(item.node, 0.0))
        computed = starts_ms + charges[item.request].features.compute_ms
        device_free[item.node] = computed
        events.append((computed, COMPUTED, item.request))
    heapq.heapify(events)
    stations = _Stations(cloud, radio)
    while events:
        now_ms, event, number = heapq.heappop(events)
        item = by_number[number]
        if event == COMPUTED:
            at_cloud = stations.send(item, charges[number].features, now_ms)
            heapq.heappush(events, (at_cloud, AT_CLOUD, number))
        elif event == AT_CLOUD:
            back_ms = stations.serve(item, charges[number], now_ms)
            heapq.heappush(events, (back_ms, BACK, number))
        else:
            stations.receive(item, now_ms)
    available_ms = cloud.servers * stations.last_ms
    return ServedTimes(stations.timings, stations.busy_ms / available_ms if available_ms else 0.0)
