"""Serves the victims' requests with a trained arm; the rows of requests.parquet."""

from dataclasses import dataclass
from typing import Any

import torch
from flwr.serverapp import Grid
from torch import Tensor

from clients.device_spec import deployable
from server.serving import NO_ANSWER, FrontEndInCloud, Request, Serving
from testbed.core.threads import torch_threads
from testbed.engine.hosts.host import device_of
from testbed.engine.network.grid import run_server_app
from testbed.engine.serving.cloud_queue import CloudTimes
from testbed.engine.serving.service_times import batch_times
from testbed.engine.serving.timing import ServedTimes, draw_requests, time_requests
from testbed.engine.setting.run_context import RunContext
from testbed.engine.setting.tiers import NodeTiers
from testbed.engine.training.fleet import TrainedArm
from testbed.fleet.queueing import BatchTimes

TIMES = (
    *("compute_ms", "uplink_ms", "wake_ms", "queue_ms", "cloud_ms", "downlink_ms"),
    *("latency_ms", "batch_size", "cloud_share_ms"),
)


@dataclass(frozen=True)
class ServedArm:
    """The served requests of an arm.

    Attributes
    ----------
    rows : rows of requests.parquet, in the order of arrival.
    answers : predicted class by request id.
    batch : the cloud's service times of a batch.
    """

    requests: list[Request]
    answers: dict[int, int]
    times: ServedTimes
    rows: list[dict[str, Any]]
    batch: BatchTimes


def serve(run_context: RunContext, arm: TrainedArm) -> ServedArm:
    """Deploy the front-end as a Flower ServerApp, answer all requests and time them."""
    inputs = run_context.inputs
    section = inputs.scenario.serving
    requests = draw_requests(
        inputs.data.parts.victims,
        inputs.data.victim_owner,
        section.horizon_s,
        inputs.scenario.seed,
    )
    tier_of = NodeTiers(arm.models.tier_of)
    serving = Serving(
        arm.cloud,
        [(deployable(tier.parameters), tier.statistics) for tier in arm.server.tiers],
        tier_of,
        _front_end_in_cloud(arm) if inputs.scenario.fleet.infeasible == "offload_raw" else None,
    )
    answers: dict[int, int] = {}

    def main(grid: Grid) -> None:
        serving.deploy(grid)
        answers.update(serving.answer(grid, requests, run_context.progress.advance))

    run_server_app(arm.grid, main)
    batch = batch_times(inputs, arm.models)
    times = time_requests(
        requests,
        arm.grid.request_charges,
        CloudTimes(batch, section.cloud_servers, section.batch_window_ms, tier_of),
        inputs.radio_timers,
        inputs.fleet.rtt_ms / 2.0,
    )
    for item in requests:
        if item.request in times.timings:
            arm.grid.charge_radio(
                device_of(item.node),
                times.timings[item.request].wake_ms,
                times.wake_tail_mj[item.request],
            )
    rows = [_row(run_context, arm, item, answers, times) for item in requests]
    return ServedArm(requests, answers, times, rows, batch)


def _front_end_in_cloud(arm: TrainedArm) -> FrontEndInCloud:
    """Return the arm's front-end, run in the cloud for devices that it does not fit.

    It applies the defence's release with the device's own random draw, so that the answer equals
    the one for features from the device. The release protects nothing here, but the cloud model was
    trained on it.
    """
    runners = {tier: arm.deployed(tier).runner for tier in arm.models.used()}
    tier_of = NodeTiers(arm.models.tier_of)

    def run(image: Tensor, node: int, request: int) -> Tensor:
        with torch_threads(1), torch.no_grad():  # one thread, as on a device
            return runners[tier_of[node]].request_features(image, device_of(node), request).cpu()

    return run


def _row(
    run_context: RunContext,
    arm: TrainedArm,
    item: Request,
    answers: dict[int, int],
    times: ServedTimes,
) -> dict[str, Any]:
    inputs, device = run_context.inputs, device_of(item.node)
    timing = times.timings.get(item.request)
    charges = arm.grid.request_charges.get(item.request)
    label = int(inputs.data.pool.labels[item.image])
    answer = answers.get(item.request, NO_ANSWER)
    row: dict[str, Any] = {
        "arm": arm.models.arm,
        "request": item.request,
        "device": device,
        "device_class": inputs.fleet.device_class(device),
        "victim": item.image,
        "label": label,
        "answer": answer,
        "correct": answer == label,
        "status": "answered" if timing else arm.grid.request_status.get(item.request, "failed"),
        "raw": bool(charges and charges.raw),
        "arrival_s": item.arrival_s,
    }
    for part in TIMES:
        row[part] = getattr(timing, part) if timing else None
    energy: float | None = None
    wake_tail_mj = times.wake_tail_mj.get(item.request)
    if charges and charges.answer:
        parts = (charges.features.energy_mj, charges.answer.energy_mj, wake_tail_mj)
        energy = None if None in parts else sum(part for part in parts if part is not None)
    row["energy_mj"], row["wake_tail_mj"] = energy, wake_tail_mj
    # The features, the answer and its acknowledgement: what the energy is of.
    messages = [part for part in (charges.features, charges.answer) if part] if charges else []
    row["uplink_bytes"] = sum(part.uplink_bytes for part in messages)
    row["downlink_bytes"] = sum(part.downlink_bytes for part in messages)
    return row
