"""The cost of a run to this machine (host.json). No result depends on it."""

import importlib.metadata
import os
import platform
import statistics
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import torch

from clients.device_spec import compute_layout
from testbed.core.compute import CPU, compute_device, computing_on, describe_device
from testbed.core.files import write_json
from testbed.core.progress import Progress
from testbed.core.seeds import torch_generator
from testbed.core.threads import torch_threads
from testbed.engine.hosts.backend import Backend
from testbed.engine.setting.models import TierModel
from testbed.results.host_facts import (
    AttackCost,
    HostFacts,
    Phase,
    Process,
    ProviderModel,
    ReferenceRate,
)
from testbed.scenario.schema import Scenario

PACKAGES = ("flwr", "torch", "ray", "numpy", "flwr-datasets", "datasets", "pyarrow")
REPEATS, WARM_UP = 15, 2
BATCH = 8
CLOCK_TICK_S = 0.01


class HostMeter:
    """Collects and writes the machine's facts.

    Attributes
    ----------
    hosts : processes that simulate devices.
    models : origin of each arm's provider-trained model.
    attacks : seconds of each attack.
    reference_rate : this machine's rate on a front-end, when it is measured.
    """

    def __init__(self) -> None:
        self.hosts = 1
        self.models: list[ProviderModel] = []
        self.attacks: list[AttackCost] = []
        self._processes: list[Process] = []
        self._restarts = self._job_restarts = 0
        self.reference_rate: ReferenceRate | None = None

    def measure_usage(self, backend: Backend) -> None:
        """Record the cost of each process, and how many were replaced."""
        usage = backend.usage()
        self._processes = [Process(name=name, **asdict(cost)) for name, cost in usage.items()]
        self._restarts, self._job_restarts = backend.restarts, backend.job_restarts

    def write(self, path: Path, scenario: Scenario, progress: Progress) -> None:
        """Write everything that was measured so far."""
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        facts = HostFacts(
            versions={"python": platform.python_version()} | versions,
            cores=os.cpu_count(),
            phases=[Phase(name=name, wall_s=wall_s) for name, wall_s in progress.phases],
            total_wall_s=progress.total_s,
            processes=self._processes,
            reference_rate=self.reference_rate,
            attacks=self.attacks,
            models=self.models,
            backend=scenario.engine.backend,
            hosts=self.hosts,
            device=describe_device(compute_device(), scenario.engine.cloud_threads),
            host_restarts=self._restarts,
            adversary_restarts=self._job_restarts,
            torch_threads=torch.get_num_threads(),
            finished_at=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        )
        write_json(path, facts.tree())


def reference_rate(models: TierModel) -> ReferenceRate:
    """Measure inference of a front-end in one thread of this machine's CPU.

    Returns
    -------
    Median images/s and MACs/s over ``REPEATS`` passes of ``BATCH`` images, in CPU time of this
    process, which other processes do not affect.
    """
    parameters, norm_statistics = models.edge.initial_weights()
    with computing_on(CPU):
        weights = {n: compute_layout(value) for n, value in (parameters | norm_statistics).items()}
    x = torch.rand(
        BATCH, *models.device_spec.image_shape, generator=torch_generator(0, "reference")
    )
    process = psutil.Process()
    seconds = []
    with torch_threads(1), torch.no_grad():
        for _ in range(REPEATS + WARM_UP):
            before = process.cpu_times()
            started = time.perf_counter()
            models.edge.features(weights, x, torch_generator(0, "reference release"))
            wall = time.perf_counter() - started
            after = process.cpu_times()
            cpu = (after.user - before.user) + (after.system - before.system)
            # CPU times advance in ticks: time a pass of a few ticks by the clock instead.
            seconds.append(cpu if cpu > 5 * CLOCK_TICK_S else wall)
    images_per_s = BATCH / statistics.median(seconds[WARM_UP:])
    return ReferenceRate(
        front_end=models.device_spec.front_end.name,
        images_per_s=images_per_s,
        gmac_per_s=images_per_s * models.edge_stats.macs / 1e9,
    )
