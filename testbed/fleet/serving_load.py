"""Serving under load: open-loop requests through device, uplink, cloud queue and downlink.

Every device computes one request at a time and sends one at a time, in order of arrival; the
cloud's servers share one queue and may batch. 10 million requests over 10,000 devices take seconds.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from testbed.core import seeds
from testbed.fleet.link_effects import wake_ms
from testbed.fleet.queueing import Floats, batched, grouped_single_server_starts
from testbed.fleet.table import read_table

Devices = NDArray[np.int64]
MS = 1000.0


@dataclass(frozen=True)
class Requests:
    """Requests in order of device and, within a device, of arrival; columns (N,)."""

    device: Devices
    arrival_s: Floats

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.device)


def poisson_requests(rate_per_s: Floats, horizon_s: float, seed: int) -> Requests:
    """Draw requests that arrive independently of everything (open loop).

    Parameters
    ----------
    rate_per_s : (D,) requests per second of each device.
    horizon_s : requests arrive from 0 until then.
    seed : the scenario's seed.
    """
    rng = seeds.generator(seed, "serving-load-arrivals")
    counts = rng.poisson(rate_per_s * horizon_s)
    device = np.repeat(np.arange(len(rate_per_s), dtype=np.int64), counts)
    # given their number, Poisson arrivals are uniform; sorting (device + place) sorts both
    keys = device + rng.random(len(device))
    keys.sort()
    return Requests(device, (keys - device) * horizon_s)


def recorded_requests(path: Path, devices: int) -> Requests:
    """Read requests from a CSV file with the columns ``device`` (0 to D - 1) and ``arrival_s``.

    Raises
    ------
    UserError : the file cannot be read, or a row is wrong; names the file, row and column.
    """
    rows = read_table(path, ("device", "arrival_s"), others_allowed=True)
    numbers = []
    for row in rows:
        number = row.not_negative("device")
        if number != int(number) or number >= devices:
            row.refuse("device", f"must be a whole number from 0 to {devices - 1}")
        numbers.append(int(number))
    device = np.asarray(numbers, dtype=np.int64)
    arrival_s = np.asarray([row.not_negative("arrival_s") for row in rows], dtype=np.float64)
    order = np.lexsort((arrival_s, device))
    return Requests(device[order], arrival_s[order])


@dataclass(frozen=True)
class DeviceTimes:
    """What one request takes on each device and its link; columns (D,), in seconds.

    Attributes
    ----------
    compute_s : the front-end on the device.
    uplink_s, downlink_s : serialisation of features and answer.
    one_way_s : half a round trip, each way.
    drowsy_s, dormant_s : what waking the radio takes after a short and a long idle time; None for
        radios that never sleep (see ``testbed.fleet.link_effects``).
    """

    compute_s: Floats
    uplink_s: Floats
    downlink_s: Floats
    one_way_s: Floats
    drowsy_s: Floats | None = None
    dormant_s: Floats | None = None


@dataclass(frozen=True)
class Cloud:
    """The cloud: equal servers, one queue.

    Attributes
    ----------
    batch_service_s : (B,) seconds that a batch of 1 to B requests takes, as measured or modelled.
    servers : how many.
    window_s : how long a server waits for a batch to fill.
    price_per_server_hour : in any currency; None leaves the cost out.
    """

    batch_service_s: Floats
    servers: int = 1
    window_s: float = 0.0
    price_per_server_hour: float | None = None


@dataclass(frozen=True)
class Served:
    """What happened to the requests; columns (N,), in seconds, in the order of the requests.

    Attributes
    ----------
    device_wait_s, compute_s : on the device, in its queue and computing.
    uplink_wait_s, wake_s : until the device's uplink is free, and until its radio is awake.
    cloud_wait_s, cloud_s : in the cloud's queue (waiting for a batch included), and in service.
    latency_s : from arrival to answer.
    batches, utilisation : of the cloud, over the time from the first arrival to the last answer.
    """

    requests: Requests
    device_wait_s: Floats
    compute_s: Floats
    uplink_wait_s: Floats
    wake_s: Floats
    cloud_wait_s: Floats
    cloud_s: Floats
    latency_s: Floats
    batches: int
    utilisation: float
    span_s: float
    cost_per_1000: float | None


def serve(requests: Requests, times: DeviceTimes, cloud: Cloud) -> Served:
    """Send every request through device, uplink, cloud and downlink."""
    device = requests.device
    compute_s = times.compute_s[device]
    started = grouped_single_server_starts(device, requests.arrival_s, compute_s)
    device_wait_s = started - requests.arrival_s
    computed = started + compute_s
    wake_s = _wake_s(device, computed, times)
    uplink_s = times.uplink_s[device] + wake_s
    sending = grouped_single_server_starts(device, computed, uplink_s)
    uplink_wait_s = sending - computed
    at_cloud = sending + uplink_s + times.one_way_s[device]
    del started, computed, sending, uplink_s
    order = np.argsort(at_cloud, kind="stable")
    result = batched(at_cloud[order], cloud.batch_service_s, cloud.servers, cloud.window_s)
    cloud_wait_s, cloud_s = np.empty_like(at_cloud), np.empty_like(at_cloud)
    cloud_wait_s[order] = result.start_s - at_cloud[order]
    cloud_s[order] = result.service_s
    back_s = times.downlink_s[device] + times.one_way_s[device]
    latency_s = at_cloud + cloud_wait_s + cloud_s + back_s - requests.arrival_s
    answered = latency_s + requests.arrival_s
    span_s = float(answered.max() - requests.arrival_s.min()) if len(requests) else 0.0
    available_s = cloud.servers * span_s
    return Served(
        requests,
        device_wait_s,
        compute_s,
        uplink_wait_s,
        wake_s,
        cloud_wait_s,
        cloud_s,
        latency_s,
        result.batches,
        result.busy_s / available_s if available_s else 0.0,
        span_s,
        _cost_per_1000(cloud, span_s, len(requests)),
    )


def _wake_s(device: Devices, ready_s: Floats, times: DeviceTimes) -> Floats:
    """Return how long each message waits for its radio, by the gap to the device's one before."""
    if times.drowsy_s is None or times.dormant_s is None:
        return np.zeros(len(device))
    idle_s = np.diff(ready_s, prepend=-np.inf)
    idle_s[np.diff(device, prepend=-1) != 0] = np.inf  # a device's first message finds it asleep
    awake_s = times.uplink_s[device]
    return wake_ms(idle_s - awake_s, times.drowsy_s[device], times.dormant_s[device])


def _cost_per_1000(cloud: Cloud, span_s: float, requests: int) -> float | None:
    """Return the price of the servers' time for 1,000 answers, idle time included."""
    if cloud.price_per_server_hour is None or not requests:
        return None
    return cloud.price_per_server_hour * cloud.servers * span_s / 3600.0 / requests * 1000.0


@dataclass(frozen=True)
class ClassLatency:
    """Latency of one device class, in ms, and the share of requests past the deadline."""

    device_class: str
    requests: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    deadline_miss_share: float


def by_class(served: Served, classes: NDArray[np.str_], deadline_ms: float) -> list[ClassLatency]:
    """Summarise latency by device class, and over all classes as ``all``.

    Parameters
    ----------
    classes : (D,) class of each device.
    deadline_ms : requests answered later miss it.
    """
    names, of_device = np.unique(classes, return_inverse=True)
    of_request = of_device[served.requests.device]
    found = [
        _summary(str(name), served.latency_s[of_request == index], deadline_ms)
        for index, name in enumerate(names)
    ]
    return [
        *(each for each in found if each.requests),
        _summary("all", served.latency_s, deadline_ms),
    ]


def _summary(name: str, latency_s: Floats, deadline_ms: float) -> ClassLatency:
    if not len(latency_s):
        return ClassLatency(name, 0, 0.0, 0.0, 0.0, 0.0, 0.0)
    p50, p95, p99 = (np.quantile(latency_s, [0.5, 0.95, 0.99]) * MS).tolist()
    return ClassLatency(
        name,
        len(latency_s),
        p50,
        p95,
        p99,
        float(latency_s.mean()) * MS,
        float(np.mean(latency_s * MS > deadline_ms)),
    )
