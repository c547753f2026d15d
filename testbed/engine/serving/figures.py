"""Figures of serving, over all requests and over those of one tier or device class."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.engine.serving.timing import ServedTimes
from testbed.fleet.cloud_price import cost_per_1000, price_usd_per_hour
from testbed.fleet.queueing import BatchTimes
from testbed.results.columns import Record
from testbed.results.schema import CloudCost, Latency, ServedPart, ServingCloud
from testbed.scenario.serving import ServingSection


@dataclass(frozen=True)
class ServingFigures:
    """Summarises rows of requests.parquet.

    Attributes
    ----------
    section : the scenario's serving section.
    times : of all requests of the arm.
    """

    section: ServingSection
    times: ServedTimes

    def of(self, rows: Sequence[Record]) -> ServedPart:
        """Return counts, latency, energy and the cloud's share and cost of some of the requests."""
        answered = [row for row in rows if row["status"] == "answered"]
        deadline_ms = self.section.request_deadline_ms
        misses = sum(1 for row in answered if row["latency_ms"] > deadline_ms)
        times = self.times
        available_ms = times.servers * times.span_ms
        busy_ms = sum(row["cloud_share_ms"] for row in answered)
        batches = sum(1.0 / row["batch_size"] for row in answered)
        all_answers = len(times.timings)
        idle_ms = (available_ms - times.busy_ms) / all_answers if all_answers else 0.0
        cost = cost_per_1000(self._price_usd_per_hour, busy_ms, len(answered), idle_ms)
        return ServedPart(
            requests=len(rows),
            answered=len(answered),
            unanswered=len(rows) - len(answered),
            offloaded_raw=sum(1 for row in answered if row["raw"]),
            deadline_misses=misses,
            deadline_miss_share=misses / len(answered) if answered else None,
            latency_ms=_latency(answered),
            energy_mj_per_request=mean(answered, "energy_mj"),
            work_mj_per_request=_work_mj(answered),
            wake_tail_mj_per_request=mean(answered, "wake_tail_mj"),
            energy_unknown_devices=len(
                {row["device"] for row in answered if row["energy_mj"] is None}
            ),
            uplink_bytes_per_request=mean(answered, "uplink_bytes"),
            cloud_utilisation=busy_ms / available_ms if available_ms else 0.0,
            mean_batch=len(answered) / batches if answered else None,
            cost_usd_per_1000=CloudCost(**asdict(cost)),
        )

    def cloud(self, batch: BatchTimes, tiers: Sequence[str]) -> ServingCloud:
        """Return the cloud's parts, with the service times by tier that were used."""
        section = self.section
        return ServingCloud(
            device=section.cloud_device,
            servers=section.cloud_servers,
            max_batch=section.max_batch,
            batch_window_ms=section.batch_window_ms,
            service=section.cloud_service,
            service_ms=_listed(batch.cloud_s, tiers),
            front_end_ms=_listed(batch.front_end_s, tiers),
            price_usd_per_hour=self._price_usd_per_hour,
            batches=self.times.batches,
            span_s=self.times.span_ms / 1000.0,
        )

    @property
    def _price_usd_per_hour(self) -> float | None:
        return price_usd_per_hour(self.section.cloud_device, self.section.cloud_price_usd_per_hour)


def _listed(seconds: NDArray[np.float64] | None, tiers: Sequence[str]) -> dict[str, list[float]]:
    """Return milliseconds by tier and by the number of requests."""
    if seconds is None:
        return {}
    return {tier: (row * 1000.0).tolist() for tier, row in zip(tiers, seconds, strict=True)}


def _work_mj(answered: Sequence[Record]) -> float | None:
    """Return the mean energy of computing, sending and receiving, where it is known."""
    known = [row for row in answered if row["energy_mj"] is not None]
    work = [row["energy_mj"] - row["wake_tail_mj"] for row in known]
    return float(np.mean(work)) if work else None


def mean(rows: Sequence[Record], column: str) -> float | None:
    """Return the mean over rows where the value is known."""
    known = [row[column] for row in rows if row[column] is not None]
    return float(np.mean(known)) if known else None


def _latency(rows: Sequence[Record]) -> Latency:
    latencies = [row["latency_ms"] for row in rows]
    points = np.percentile(latencies, (50, 95, 99)).tolist() if latencies else (None, None, None)
    return Latency(median=points[0], p95=points[1], p99=points[2])
