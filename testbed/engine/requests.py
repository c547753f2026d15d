"""The victims' requests: when they arrive, and their time through device, link and cloud."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.serving import Request
from testbed.core.seeds import generator
from testbed.engine.grid import RequestCharges
from testbed.engine.host import device_of, node_of


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
    queue_ms : waiting for the device, for its link and at the cloud, together.
    """

    compute_ms: float
    uplink_ms: float
    queue_ms: float
    cloud_ms: float
    downlink_ms: float

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


def time_requests(
    requests: Sequence[Request],
    charges: dict[int, RequestCharges],
    cloud_ms: float,
    servers: int,
) -> ServedTimes:
    """Send the answered requests through three first-come-first-served stations.

    A device computes one request at a time, its link sends one at a time, and the cloud has
    ``servers`` servers that take ``cloud_ms`` per request.
    """
    device_free: dict[int, float] = {}
    link_free: dict[int, float] = {}
    at_cloud: list[tuple[float, int, float]] = []
    answered = [
        item for item in requests if item.request in charges and charges[item.request].answer
    ]
    for item in answered:
        device, sent = device_of(item.node), charges[item.request].features
        arrival_ms = item.arrival_s * 1000.0
        computed = max(arrival_ms, device_free.get(device, 0.0)) + sent.compute_ms
        device_free[device] = computed
        delivered = max(computed, link_free.get(device, 0.0)) + sent.uplink_ms
        link_free[device] = delivered
        waited = delivered - arrival_ms - sent.compute_ms - sent.uplink_ms
        at_cloud.append((delivered, item.request, max(0.0, waited)))
    free = [0.0] * servers
    timings: dict[int, Timing] = {}
    last_ms = 0.0
    for delivered, request, waited in sorted(at_cloud):
        started = max(delivered, heapq.heappop(free))
        heapq.heappush(free, started + cloud_ms)
        last_ms = max(last_ms, started + cloud_ms)
        sent, answer = charges[request].features, charges[request].answer
        assert answer is not None
        timings[request] = Timing(
            sent.compute_ms,
            sent.uplink_ms,
            waited + started - delivered,
            cloud_ms,
            answer.downlink_ms,
        )
    busy_ms = cloud_ms * len(timings)
    return ServedTimes(timings, busy_ms / (servers * last_ms) if last_ms else 0.0)
