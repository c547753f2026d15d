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
    """The parts of one answered request's latency.

    Attributes
    ----------
    uplink_ms : sending, including the radio's wake-up.
    wake_ms : the radio's wake-up alone.
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


COMPUTED, AT_CLOUD, START, BACK = range(4)  # events, in their order at equal times


class _Stations:
    """The stations that requests pass, and the requests' times."""

    def __init__(
        self, cloud: CloudTimes, radio: RadioTimers | None, one_way_ms: NDArray[np.float64] | None
    ) -> None:
        self.cloud = CloudQueue(cloud)
        self.radio = radio
        self.one_way_ms = one_way_ms
        self.link_free: dict[int, float] = {}
        self.sent: dict[int, tuple[float, float]] = {}
        self.timings: dict[int, Timing] = {}
        self.energy = _RadioEnergy(radio)

    def send(self, item: Request, sent: Charge, now_ms: float) -> float:
        """Send a computed request over its device's link; return its arrival at the cloud.

        The link is busy until the last bit is sent; propagation to the cloud does not occupy it.
        """
        device = device_of(item.node)
        starts_ms = max(now_ms, self.link_free.get(device, 0.0))
        wake_ms = self.radio.wake_ms(device, starts_ms / 1000.0) if self.radio else 0.0
        uplink_ms = wake_ms + sent.uplink_ms
        delivered = starts_ms + uplink_ms
        way_ms = 0.0 if self.one_way_ms is None else float(self.one_way_ms[device])
        out_ms = self.link_free[device] = max(starts_ms + wake_ms, delivered - way_ms)
        self._note_active(device, delivered)
        self.energy.sends(device, item.request, starts_ms, wake_ms, out_ms)
        waited = starts_ms - item.arrival_s * 1000.0 - sent.compute_ms
        self.sent[item.request] = (wake_ms, max(0.0, waited))
        return delivered

    def answered(
        self, item: Request, charges: RequestCharges, times: tuple[float, float, float, int]
    ) -> float:
        """Record the cloud's service of a request; return how long its answer travels.

        Parameters
        ----------
        times : waiting, service and share of it, in ms, and the size of the batch.
        """
        queued_ms, service_ms, share_ms, size = times
        sent, answer = charges.features, charges.answer
        assert answer is not None
        wake_ms, waited_ms = self.sent.pop(item.request)
        self.timings[item.request] = Timing(
            sent.compute_ms,
            wake_ms + sent.uplink_ms,
            waited_ms + queued_ms,
            service_ms,
            answer.downlink_ms,
            wake_ms,
            size,
            share_ms,
        )
        return answer.downlink_ms

    def receive(self, item: Request, now_ms: float) -> None:
        """Record that a device has received its answer."""
        self._note_active(device_of(item.node), now_ms)
        self.energy.receives(device_of(item.node), now_ms)

    def _note_active(self, device: int, until_ms: float) -> None:
        if self.radio:
            self.radio.active_until(device, until_ms / 1000.0)


@dataclass
class _RadioEnergy:
    """Energy of radios beside sending and receiving: waking up and staying awake."""

    radio: RadioTimers | None
    mj: dict[int, float] = field(default_factory=dict)
    _awake: dict[int, tuple[float, int]] = field(default_factory=dict)

    def sends(
        self, device: int, request: int, starts_ms: float, wake_ms: float, out_ms: float
    ) -> None:
        """Record a transmission: wake-up from ``starts_ms``, last bit sent at ``out_ms``."""
        self._tail(device, starts_ms)
        self.mj[request] = self.radio.wake_mj(device, wake_ms) if self.radio else 0.0
        self._awake[device] = (out_ms, request)

    def receives(self, device: int, now_ms: float) -> None:
        """Record an answer: the tail restarts and counts for the device's last request."""
        since_ms, request = self._awake[device]
        if now_ms > since_ms:
            self._tail(device, now_ms)
            self._awake[device] = (now_ms, request)

    def _tail(self, device: int, until_ms: float) -> None:
        if self.radio and device in self._awake:
            since_ms, request = self._awake[device]
            self.mj[request] += self.radio.tail_mj(device, max(0.0, until_ms - since_ms))

    def finish(self) -> dict[int, float | None]:
        """Let every radio fall asleep; return the energy by request, None if unpublished."""
        for device in self._awake:
            self._tail(device, np.inf)
        return {request: None if np.isnan(mj) else mj for request, mj in self.mj.items()}


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
    stations = _Stations(cloud, radio, one_way_ms)
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
                times = (waited, batch.service_ms, share, size)
                back = stations.answered(by_number[member], charges[member], times)
                heapq.heappush(events, (batch.ends_ms + back, BACK, member))
            if asks_again_ms is not None:
                heapq.heappush(events, (asks_again_ms, START, number))
        else:
            stations.receive(item, now_ms)
    done = stations.cloud
    return ServedTimes(
        stations.timings,
        stations.energy.finish(),
        cloud.servers,
        done.batches,
        done.busy_ms,
        done.span_ms,
    )
