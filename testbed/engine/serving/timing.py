"""The victims' requests: their arrivals, and their times through device, link and cloud."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.serving import Request
from testbed.core.seeds import generator
from testbed.engine.hosts.host import device_of, node_of
from testbed.engine.network.grid import RequestCharges
from testbed.engine.network.ledger import Charge
from testbed.engine.serving.cloud_queue import CloudQueue, CloudTimes
from testbed.fleet.link_effects import RadioTimers, RadioUse


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
    """The parts of one answered request's latency.

    Attributes
    ----------
    uplink_ms : sending, including the radio's wake-up.
    downlink_ms : receiving, including the radio's wake-up if it fell asleep meanwhile.
    wake_ms : the radio's wake-ups alone.
    queue_ms : waiting for the device, for its link and at the cloud, including for a full batch.
    cloud_ms : the service of its batch of ``batch_size`` requests.
    cloud_share_ms : the request's share of that service; all shares add up to the servers' busy
        time.
    """

    compute_ms: float
    uplink_ms: float
    queue_ms: float
    cloud_ms: float
    downlink_ms: float
    wake_ms: float = 0.0
    batch_size: int = 1
    cloud_share_ms: float = 0.0

    @property
    def latency_ms(self) -> float:
        """Return the time from the request to its answer on the device."""
        parts = (self.compute_ms, self.uplink_ms, self.queue_ms, self.cloud_ms, self.downlink_ms)
        return sum(parts)


@dataclass(frozen=True)
class ServedTimes:
    """Timings by request id, and the cloud's use from its first arrival to its last answer.

    Attributes
    ----------
    wake_tail_mj : by request, the radio's energy for waking up before it and for staying awake
        after it, until the next request or until asleep; None if unpublished.
    """

    timings: dict[int, Timing]
    wake_tail_mj: dict[int, float | None]
    servers: int
    batches: int
    busy_ms: float
    span_ms: float

    @property
    def cloud_utilisation(self) -> float:
        """Return the share of time that the servers were busy."""
        available_ms = self.servers * self.span_ms
        return self.busy_ms / available_ms if available_ms else 0.0


COMPUTED, AT_CLOUD, START, REACHES, BACK = range(5)  # events, in their order at equal times


@dataclass
class _Stations:
    """The stations that requests pass, and the requests' times.

    Attributes
    ----------
    sent : of each request on its way: the radio's wake-up, and waiting on the device.
    served : waiting, service and share of it at the cloud, in ms, and the size of the batch.
    """

    cloud: CloudQueue
    radio: RadioUse
    one_way_ms: NDArray[np.float64] | None
    link_free: dict[int, float] = field(default_factory=dict)
    sent: dict[int, tuple[float, float]] = field(default_factory=dict)
    served: dict[int, tuple[float, float, float, int]] = field(default_factory=dict)
    timings: dict[int, Timing] = field(default_factory=dict)

    def way_ms(self, device: int) -> float:
        """Return the propagation time between a device and the cloud."""
        return 0.0 if self.one_way_ms is None else float(self.one_way_ms[device])

    def send(self, item: Request, sent: Charge, now_ms: float) -> float:
        """Send a computed request over its device's link; return its arrival at the cloud.

        The link is busy until the last bit is sent; propagation to the cloud does not occupy it.
        """
        device = device_of(item.node)
        starts_ms = max(now_ms, self.link_free.get(device, 0.0))
        wake_ms = self.radio.begin(device, item.request, starts_ms)
        delivered = starts_ms + wake_ms + sent.uplink_ms
        out_ms = max(starts_ms + wake_ms, delivered - self.way_ms(device))
        self.link_free[device] = out_ms
        self.radio.end(device, item.request, out_ms)
        waited = starts_ms - item.arrival_s * 1000.0 - sent.compute_ms
        self.sent[item.request] = (wake_ms, max(0.0, waited))
        return delivered

    def reaches_ms(self, item: Request, answer: Charge) -> float:
        """Return how long after its service an answer reaches the device's radio."""
        return min(self.way_ms(device_of(item.node)), answer.downlink_ms)

    def receive(self, item: Request, charges: RequestCharges, now_ms: float) -> float:
        """Begin to receive an answer, and record the request; return how long until it is there."""
        sent, answer = charges.features, charges.answer
        assert answer is not None
        wake_up_ms, waited_ms = self.sent.pop(item.request)
        queued_ms, service_ms, share_ms, size = self.served.pop(item.request)
        wake_down_ms = self.radio.begin(device_of(item.node), item.request, now_ms)
        self.timings[item.request] = Timing(
            sent.compute_ms,
            wake_up_ms + sent.uplink_ms,
            waited_ms + queued_ms,
            service_ms,
            wake_down_ms + answer.downlink_ms,
            wake_up_ms + wake_down_ms,
            size,
            share_ms,
        )
        return wake_down_ms + answer.downlink_ms - self.reaches_ms(item, answer)

    def wake_tail_mj(self) -> dict[int, float | None]:
        """Let every radio fall asleep; return the energy by request, None if unpublished."""
        self.radio.finish()
        return {key: None if np.isnan(mj) else mj for key, mj in self.radio.mj.items()}


def time_requests(
    requests: Sequence[Request],
    charges: dict[int, RequestCharges],
    cloud: CloudTimes,
    radio: RadioTimers | None = None,
    one_way_ms: NDArray[np.float64] | None = None,
) -> ServedTimes:
    """Send the answered requests through three first-come-first-served stations.

    A device computes one request at a time, its link sends one at a time, and the cloud's servers
    share one queue. Events run in the order of virtual time, and of request numbers at equal times.
    A radio is therefore awake after everything that it sent or received earlier.

    Parameters
    ----------
    radio : timers of radios that sleep, all asleep at first; None: they never sleep.
    one_way_ms : (devices,) propagation time within every uplink, which does not occupy the link;
        None: zero.
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
    stations = _Stations(CloudQueue(cloud), RadioUse(radio), one_way_ms)
    while events:
        now_ms, event, number = heapq.heappop(events)
        item = by_number[number]
        if event == COMPUTED:
            at_cloud = stations.send(item, charges[number].features, now_ms)
            heapq.heappush(events, (at_cloud, AT_CLOUD, number))
        elif event == AT_CLOUD:
            tier = cloud.tier_of.get(item.node, 0)
            asks_ms = stations.cloud.arrive(number, tier, charges[number].raw, now_ms)
            heapq.heappush(events, (asks_ms, START, number))
        elif event == START:
            batch, asks_again_ms = stations.cloud.start(now_ms)
            if batch is None:
                continue
            size = len(batch.requests)
            for member, waited, share in zip(
                batch.requests, batch.waited_ms, batch.share_ms, strict=True
            ):
                stations.served[member] = (waited, batch.service_ms, share, size)
                answer = charges[member].answer
                assert answer is not None
                reaches = batch.ends_ms + stations.reaches_ms(by_number[member], answer)
                heapq.heappush(events, (reaches, REACHES, member))
            if asks_again_ms is not None:
                heapq.heappush(events, (asks_again_ms, START, number))
        elif event == REACHES:
            back_ms = now_ms + stations.receive(item, charges[number], now_ms)
            heapq.heappush(events, (back_ms, BACK, number))
        else:
            stations.radio.end(device_of(item.node), number, now_ms)
    done = stations.cloud
    return ServedTimes(
        stations.timings,
        stations.wake_tail_mj(),
        cloud.servers,
        done.batches,
        done.busy_ms,
        done.span_ms,
    )
