"""The load of a scenario's fleet with many requests: the queues of every arm, and their tables."""

import argparse
import json
from dataclasses import asdict, dataclass

import numpy as np

from testbed.cli.tables import console, table
from testbed.core.errors import UserError
from testbed.engine.network.costs import DeviceCosts, device_costs
from testbed.engine.network.message_sizes import message_bytes
from testbed.engine.serving.service_times import batch_times
from testbed.engine.setting.models import ArmModels, arm_models
from testbed.engine.setting.run_context import RunInputs, read_run_inputs
from testbed.fleet.cloud_price import CloudCost, price_usd_per_hour
from testbed.fleet.link_effects import RadioTimers
from testbed.fleet.serving_load import (
    ClassLatency,
    Cloud,
    DeviceTimes,
    Requests,
    by_class,
    poisson_requests,
    recorded_requests,
    serve,
)
from testbed.results import formats as numbers
from testbed.scenario.loading import load_scenario


@dataclass(frozen=True)
class ArmLoad:
    """Result of one arm under load.

    Attributes
    ----------
    requests, offloaded_raw : answered requests, and the number of them sent as raw images.
    infeasible_devices : devices that the front-end does not fit; they send raw images or, with
        ``fleet.infeasible: drop``, nothing.
    """

    arm: str
    requests: int
    offloaded_raw: int
    infeasible_devices: int
    classes: list[ClassLatency]
    mean_parts_ms: dict[str, float]
    cloud_utilisation: float
    mean_batch: float
    cost_usd_per_1000: CloudCost


def device_times(inputs: RunInputs, models: ArmModels, costs: DeviceCosts) -> DeviceTimes:
    """Return the times of a request on every device, as in a run without losses."""
    fleet, scenario = inputs.fleet, inputs.scenario
    sizes, tier = message_bytes(models, costs), models.tier_of.astype(np.int64)
    raw = ~costs.serving_feasible
    compute_ms = np.where(raw, 0.0, costs.inference_ms_of_all())
    drowsy_s, dormant_s = None, None
    if scenario.fleet.radio_sleep:
        drowsy_ms, dormant_ms = RadioTimers(fleet, scenario.seed).delays_ms()
        drowsy_s, dormant_s = drowsy_ms / 1e3, dormant_ms / 1e3
    return DeviceTimes(
        compute_ms / 1e3,
        8.0 * np.where(raw, sizes.raw[tier], sizes.features[tier]) / (fleet.uplink_mbit_s * 1e6),
        8.0 * sizes.answer[tier] / (fleet.downlink_mbit_s * 1e6),
        fleet.rtt_ms / 2e3,
        drowsy_s,
        dormant_s,
        tier,
        raw,
    )


def load_arm(inputs: RunInputs, models: ArmModels, options: argparse.Namespace) -> ArmLoad:
    """Draw or read the requests, serve them and summarise."""
    scenario, devices = inputs.scenario, len(inputs.fleet)
    section = scenario.serving
    costs = device_costs(inputs, models)
    fits = costs.serving_feasible
    serves = np.ones(devices, bool) if scenario.fleet.infeasible == "offload_raw" else fits
    times = device_times(inputs, models, costs)
    if options.requests:
        requests = recorded_requests(options.requests, devices)
        able = serves[requests.device]
        requests = Requests(requests.device[able], requests.arrival_s[able])
    else:
        rate_per_s = np.where(serves, options.requests_per_s / devices, 0.0)
        requests = poisson_requests(rate_per_s, section.horizon_s, scenario.seed)
    cloud = Cloud(
        batch_times(inputs, models),
        section.cloud_servers,
        section.batch_window_ms / 1e3,
        price_usd_per_hour(section.cloud_device, section.cloud_price_usd_per_hour),
    )
    served = serve(requests, times, cloud)
    fleet = inputs.fleet
    classes = np.array([model.device_class for model in fleet.models])[fleet.model_index]
    parts = {
        "device queue": served.device_wait_s,
        "device": served.compute_s,
        "uplink queue": served.uplink_wait_s,
        "radio wake-up": served.wake_s,
        "cloud queue": served.cloud_wait_s,
        "cloud": served.cloud_s,
    }
    return ArmLoad(
        models.arm,
        len(requests),
        int((~fits)[requests.device].sum()),
        int((~fits).sum()),
        by_class(served, classes, section.request_deadline_ms),
        {name: float(part.mean()) * 1e3 if len(part) else 0.0 for name, part in parts.items()},
        served.utilisation,
        len(requests) / served.batches if served.batches else 0.0,
        served.cost_per_1000,
    )


def print_arm(load: ArmLoad, deadline_ms: float) -> None:
    """Print one arm's latencies by class, and one line about the cloud."""
    made = table(
        f"{load.arm}: {load.requests:,} requests",
        *("class", "requests", "p50 ms", "p95 ms", "p99 ms", "mean ms"),
        f"later than {deadline_ms:g} ms",
    )
    for group in load.classes:
        milliseconds = (group.p50_ms, group.p95_ms, group.p99_ms, group.mean_ms)
        made.add_row(
            group.device_class,
            numbers.count(group.requests),
            *map(numbers.significant, milliseconds),
            numbers.percent(group.deadline_miss_share),
        )
    console().print(made)
    parts = ", ".join(f"{name} {value:.3g} ms" for name, value in load.mean_parts_ms.items())
    console().print(
        f"means: {parts}\ncloud {load.cloud_utilisation:.0%} busy, {load.mean_batch:.2g} requests "
        f"per batch{_cost(load.cost_usd_per_1000, load.requests)}\n{load.infeasible_devices} "
        f"devices cannot run the front-end; {load.offloaded_raw:,} requests were sent raw",
        highlight=False,
    )


def _cost(cost: CloudCost, requests: int) -> str:
    if not requests:
        return ""
    if cost.busy is None or cost.provisioned is None:
        return "; the servers' price is unknown"
    return (
        f"; servers cost {cost.busy:.2g} USD per 1,000 answers while busy, "
        f"{cost.provisioned:.2g} USD with their idle time"
    )


def load(options: argparse.Namespace) -> None:
    """Draw or read the requests, serve them in every arm, and print the result."""
    if not 0.0 <= options.requests_per_s < float("inf"):
        given = f"{options.requests_per_s:g}"
        raise UserError(f"--requests-per-s: must be at least 0 and finite, got {given}")
    scenario = load_scenario(options.scenario, options.overrides)
    inputs = read_run_inputs(scenario, share_out=False)
    loads = [load_arm(inputs, arm_models(inputs, arm), options) for arm in scenario.arms]
    if options.json:
        print(json.dumps([asdict(load) for load in loads], indent=2))
        return
    for load in loads:
        print_arm(load, scenario.serving.request_deadline_ms)
