"""Puts a scenario's fleet under load: many requests, queues at every device, link and the cloud.

Nothing is trained and no image is classified; the arms' front-ends and cloud models give the
times::

    python -m testbed.load scenarios/100_devices.yaml --requests-per-s 2
    python -m testbed.load scenarios/100_devices.yaml --set fleet.size=10000 --max-batch 16
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from testbed.core.errors import UserError
from testbed.core.loading import load_scenario
from testbed.core.protocol import INFER
from testbed.engine.experiment import arm_models, device_costs
from testbed.engine.models import ArmModels
from testbed.engine.world import Setting, read_setting
from testbed.fleet.cost_model import inference_ms
from testbed.fleet.link_effects import RadioTimers
from testbed.fleet.queueing import Floats
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

WIDTH_WITHOUT_TERMINAL = 130
ANSWER_BYTES = 4
REPEATS = 7


@dataclass(frozen=True)
class ArmLoad:
    """How one arm bore the load."""

    arm: str
    requests: int
    infeasible_devices: int
    classes: list[ClassLatency]
    mean_parts_ms: dict[str, float]
    cloud_utilisation: float
    mean_batch: float
    cost_per_1000: float | None


def device_times(setting: Setting, models: ArmModels) -> tuple[DeviceTimes, NDArray[np.bool_]]:
    """Return what a request takes on every device, and which devices can serve at all."""
    fleet, scenario = setting.fleet, setting.scenario
    costs = device_costs(setting, models)
    compute_ms = [costs.compute_ms(device, INFER, 1) for device in range(len(fleet))]
    sizes = np.array([tier.edge.payload_bytes for tier in models.tiers])
    feature_bits = 8.0 * sizes[models.tier_of]
    drowsy_s, dormant_s = None, None
    if scenario.serving.radio_sleep:
        drowsy_ms, dormant_ms = RadioTimers(fleet, scenario.seed).delays_ms()
        drowsy_s, dormant_s = drowsy_ms / 1e3, dormant_ms / 1e3
    return DeviceTimes(
        np.array(compute_ms) / 1e3,
        feature_bits / (fleet.uplink_mbit_s * 1e6),
        8.0 * ANSWER_BYTES / (fleet.downlink_mbit_s * 1e6),
        fleet.rtt_ms / 2e3,
        drowsy_s,
        dormant_s,
    ), costs.serving_feasible


def cloud_batch_s(setting: Setting, models: ArmModels, largest: int, on_host: bool) -> Floats:
    """Return the seconds that the cloud takes for batches of 1 to ``largest``.

    By the cost model of the scenario's cloud device, or measured on this host in one thread at
    powers of two and interpolated between them.
    """
    if not on_host:
        stats = models.main.cloud_stats
        times = [inference_ms(setting.cloud_device, stats, size) for size in range(1, largest + 1)]
        return np.array(times) / 1e3
    sizes = [size for size in (2**power for power in range(20)) if size < largest] + [largest]
    measured = [_host_s(models, size) for size in sizes]
    # a larger batch is never quicker; what says so is noise
    measured = np.maximum.accumulate(measured).tolist()
    interpolated: Floats = np.interp(np.arange(1, largest + 1), sizes, measured)
    return interpolated


def _host_s(models: ArmModels, size: int) -> float:
    features = torch.zeros(size, *models.main.edge.front_end.feature_shape)
    cloud, tier = models.cloud.eval(), models.used()[0]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            cloud(features, tier)
            taken = []
            for _ in range(REPEATS):
                started = time.thread_time()
                cloud(features, tier)
                taken.append(time.thread_time() - started)
    finally:
        torch.set_num_threads(threads)
    return max(statistics.median(taken), 1e-6)


def load_arm(setting: Setting, models: ArmModels, options: argparse.Namespace) -> ArmLoad:
    """Draw or read the requests, serve them and summarise."""
    section, devices = setting.scenario.serving, len(setting.fleet)
    times, serves = device_times(setting, models)
    if options.requests:
        requests = recorded_requests(options.requests, devices)
        able = serves[requests.device]
        requests = Requests(requests.device[able], requests.arrival_s[able])
    else:
        rate_per_s = np.where(serves, options.requests_per_s / devices, 0.0)
        requests = poisson_requests(rate_per_s, section.horizon_s, setting.scenario.seed)
    batch_s = cloud_batch_s(setting, models, options.max_batch, options.measure_cloud)
    cloud = Cloud(
        batch_s,
        section.cloud_servers,
        options.batch_window_ms / 1e3,
        options.price_per_server_hour,
    )
    served = serve(requests, times, cloud)
    classes = np.array([setting.fleet.device_class(device) for device in range(devices)])
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
        int((~serves).sum()),
        by_class(served, classes, section.request_deadline_ms),
        {name: float(part.mean()) * 1e3 if len(part) else 0.0 for name, part in parts.items()},
        served.utilisation,
        len(requests) / served.batches if served.batches else 0.0,
        served.cost_per_1000,
    )


def print_arm(console: Console, load: ArmLoad, deadline_ms: float) -> None:
    """Print one arm's latencies by class, and one line about the cloud."""
    title = f"{load.arm}: {load.requests:,} requests"
    table = Table(title=title, title_justify="left")
    table.add_column("class", style="bold")
    for heading in ("requests", "p50 ms", "p95 ms", "p99 ms", "mean ms"):
        table.add_column(heading, justify="right")
    table.add_column(f"later than {deadline_ms:g} ms", justify="right")
    for group in load.classes:
        milliseconds = (group.p50_ms, group.p95_ms, group.p99_ms, group.mean_ms)
        table.add_row(
            group.device_class,
            f"{group.requests:,}",
            *(f"{float(f'{value:.3g}'):g}" for value in milliseconds),
            f"{group.deadline_miss_share:.1%}",
        )
    console.print(table)
    parts = ", ".join(f"{name} {value:.3g} ms" for name, value in load.mean_parts_ms.items())
    cost = "" if load.cost_per_1000 is None else f"; {load.cost_per_1000:.3g} per 1,000 answers"
    console.print(
        f"means: {parts}\ncloud {load.cloud_utilisation:.0%} busy, {load.mean_batch:.2g} requests "
        f"per batch{cost}; {load.infeasible_devices} devices cannot run the front-end",
        highlight=False,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m testbed.load", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("scenario", type=Path, help="scenario file (YAML)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--requests-per-s", type=float, default=10.0, help="of the whole fleet (default: 10)"
    )
    parser.add_argument("--requests", type=Path, help="CSV with the columns device, arrival_s")
    parser.add_argument("--max-batch", type=int, default=1, help="requests per batch in the cloud")
    parser.add_argument(
        "--batch-window-ms", type=float, default=0.0, help="how long a batch waits to fill"
    )
    parser.add_argument("--price-per-server-hour", type=float, help="in any currency")
    parser.add_argument(
        "--measure-cloud", action="store_true", help="measure the cloud model on this host"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def _check(options: argparse.Namespace) -> None:
    for name, lowest in (("requests_per_s", 0.0), ("max_batch", 1), ("batch_window_ms", 0.0)):
        value = getattr(options, name)
        if not lowest <= value < float("inf"):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag}: must be at least {lowest:g} and finite, got {value:g}")
    price = options.price_per_server_hour
    if price is not None and not 0.0 <= price < float("inf"):
        raise UserError(f"--price-per-server-hour: must be at least 0 and finite, got {price:g}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
    try:
        _check(options)
        scenario = load_scenario(options.scenario, options.overrides)
        setting = read_setting(scenario)
        loads = [load_arm(setting, arm_models(setting, arm), options) for arm in scenario.arms]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([asdict(load) for load in loads], indent=2))
        return 0
    for load in loads:
        print_arm(console, load, scenario.serving.request_deadline_ms)
    return 0


if __name__ == "__main__":
    sys.exit(main())
