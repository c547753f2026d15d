"""Serving under load: open-loop requests through device, uplink, cloud queue and downlink.

Every device computes one request at a time and sends one at a time, in order of arrival; the
cloud's servers share one queue and may batch. 10 million requests over 10,000 devices take seconds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from testbed.core import seeds
from testbed.fleet.cloud_price import CloudCost, cost_per_1000
from testbed.fleet.link_effects import wake_ms
from testbed.fleet.queueing import BatchTimes, Floats, batched, grouped_single_server_starts
from testbed.fleet.table import NotNegative, Row, must_be, read_table

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

    class RecordedRequest(Row):
        model_config = ConfigDict(extra="ignore")

        device: Annotated[
            int, Field(ge=0, lt=devices), must_be(f"a whole number from 0 to {devices - 1}")
        ]
        arrival_s: NotNegative

    rows = read_table(path, RecordedRequest)
    device = np.asarray([row.device for row in rows], dtype=np.int64)
    arrival_s = np.asarray([row.arrival_s for row in rows], dtype=np.float64)
    order = np.lexsort((arrival_s, device))
    return Requests(device[order], arrival_s[order])


@dataclass(frozen=True)
class DeviceTimes:
    """Times of one request on each device and its link; columns (D,), in seconds.

    Attributes
    ----------
    compute_s : the front-end on the device; 0 where it sends raw images.
    uplink_s, downlink_s : serialisation of features or image, and of the answer.
    one_way_s : half a round trip, each way.
    drowsy_s, dormant_s : wake-up of the radio after a short and a long idle time; None: radios
        never sleep (see ``testbed.fleet.link_effects``).
    tier : of each device, which decides its front-end and its entry to the cloud model; None: one
        tier.
    raw : whether each device sends raw images, for the cloud to run both halves; None: none does.
    """

    compute_s: Floats
    uplink_s: Floats
    downlink_s: Floats
    one_way_s: Floats
    drowsy_s: Floats | None = None
    dormant_s: Floats | None = None
    tier: NDArray[np.int64] | None = None
    raw: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Cloud:
    """The cloud: equal servers with one queue.

    Attributes
    ----------
    batch : service times of batches, modelled or measured.
    window_s : time that a batch waits to fill, from its first request on.
    usd_per_hour : price of one server; None leaves the cost out.
    """

    batch: BatchTimes
    servers: int = 1
    window_s: float = 0.0
    usd_per_hour: float | None = None


@dataclass(frozen=True)
class Served:
    """Where each request spent its time; columns (N,), in seconds, in the order of the requests.

    Attributes
    ----------
    device_wait_s, compute_s : on the device, in its queue and computing.
    uplink_wait_s, wake_s : until the device's uplink is free, and until its radio is awake, for
        request and answer.
    cloud_wait_s, cloud_s : in the cloud's queue (waiting for a batch included), and in service.
    latency_s : from arrival to answer.
    batches, utilisation : of the cloud, in ``span_s``.
    span_s : from the first arrival at the cloud to the end of its last service.
    cost_per_1000 : of 1,000 answers, in US dollars.
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
    cost_per_1000: CloudCost


def serve(requests: Requests, times: DeviceTimes, cloud: Cloud) -> Served:
    """Send every request through device, uplink, cloud and downlink."""
    device = requests.device
    compute_s = times.compute_s[device]
    started = grouped_single_server_starts(device, requests.arrival_s, compute_s)
    device_wait_s = started - requests.arrival_s
    computed = started + compute_s
    wake_up_s = _wake_s(device, computed, times, cloud.batch)
    uplink_s = times.uplink_s[device] + wake_up_s
    sending = grouped_single_server_starts(device, computed, uplink_s)
    uplink_wait_s = sending - computed
    at_cloud = sending + uplink_s + times.one_way_s[device]
    del started, computed, sending, uplink_s
    order = np.argsort(at_cloud, kind="stable")
    tier = None if times.tier is None or not times.tier.any() else times.tier[device[order]]
    raw = None if times.raw is None else times.raw[device[order]]
    result = batched(at_cloud[order], cloud.batch, cloud.servers, cloud.window_s, tier, raw)
    cloud_wait_s, cloud_s = np.empty_like(at_cloud), np.empty_like(at_cloud)
    cloud_wait_s[order] = result.start_s - at_cloud[order]
    cloud_s[order] = result.service_s
    wake_down_s = np.zeros_like(at_cloud)
    if times.drowsy_s is not None and times.dormant_s is not None:
        quiet_s = cloud_wait_s + cloud_s + 2.0 * times.one_way_s[device]
        wake_down_s = wake_ms(quiet_s, times.drowsy_s[device], times.dormant_s[device])
    back_s = wake_down_s + times.downlink_s[device] + times.one_way_s[device]
    leaves_s = at_cloud + cloud_wait_s + cloud_s
    latency_s = leaves_s + back_s - requests.arrival_s
    span_s = float(leaves_s.max() - at_cloud.min()) if len(requests) else 0.0
    available_s = cloud.servers * span_s
    idle_ms = (available_s - result.busy_s) * MS / len(requests) if len(requests) else 0.0
    return Served(
        requests,
        device_wait_s,
        compute_s,
        uplink_wait_s,
        wake_up_s + wake_down_s,
        cloud_wait_s,
        cloud_s,
        latency_s,
        result.batches,
        result.busy_s / available_s if available_s else 0.0,
        span_s,
        cost_per_1000(cloud.usd_per_hour, result.busy_s * MS, len(requests), idle_ms),
    )


def _wake_s(device: Devices, ready_s: Floats, times: DeviceTimes, batch: BatchTimes) -> Floats:
    """Return the wait of each message for its radio, from the gap to the device's previous one.

    The gap begins with the answer to the previous message, assuming that it met no queue.
    """
    if times.drowsy_s is None or times.dormant_s is None:
        return np.zeros(len(device))
    tier = np.zeros(len(times.uplink_s), dtype=np.int64) if times.tier is None else times.tier
    cloud_s = batch.cloud_s[tier, 0]
    if times.raw is not None and batch.front_end_s is not None:
        cloud_s = cloud_s + np.where(times.raw, batch.front_end_s[tier, 0], 0.0)
    answered_s = times.uplink_s + 2.0 * times.one_way_s + times.downlink_s + cloud_s
    idle_s = np.diff(ready_s, prepend=-np.inf)
    idle_s[np.diff(device, prepend=-1) != 0] = np.inf  # radios sleep at first
    return wake_ms(idle_s - answered_s[device], times.drowsy_s[device], times.dormant_s[device])


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
    summaries = [
        _summary(str(name), served.latency_s[of_request == index], deadline_ms)
        for index, name in enumerate(names)
    ]
    everything = _summary("all", served.latency_s, deadline_ms)
    return [*(summary for summary in summaries if summary.requests), everything]


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
