"""The host's own rate on a front-end, beside what devices are modelled to do."""

import statistics
import time
from typing import Any

import psutil
import torch

from clients.device_spec import compute_layout
from server.cloud import torch_threads
from testbed.core.seeds import torch_generator
from testbed.engine.setting.models import TierModel

REPEATS = 15
BATCH = 8


def reference_rate(models: TierModel) -> dict[str, Any]:
    """Measure inference of a front-end on one thread of this host.

    Returns
    -------
    Median images/s and MACs/s over ``REPEATS`` passes of ``BATCH`` images in CPU time of this
    process (psutil), so that other processes do not count.
    """
    parameters, statistics_ = models.edge.initial_weights()
    weights = {name: compute_layout(value) for name, value in (parameters | statistics_).items()}
    x = torch.rand(
        BATCH, *models.device_spec.image_shape, generator=torch_generator(0, "reference")
    )
    process = psutil.Process()
    seconds = []
    with torch_threads(1), torch.no_grad():
        for _ in range(REPEATS + 2):
            before = process.cpu_times()
            started = time.perf_counter()
            models.edge.features(weights, x, torch_generator(0, "reference release"))
            wall = time.perf_counter() - started
            after = process.cpu_times()
            cpu = (after.user - before.user) + (after.system - before.system)
            # CPU times tick in 10 ms; a pass shorter than a tick is timed by the clock instead.
            seconds.append(cpu if cpu > 0.05 else wall)
    median = statistics.median(seconds[2:])
    images_per_s = BATCH / median
    return {
        "front_end": models.device_spec.front_end.name,
        "images_per_s": images_per_s,
        "gmac_per_s": images_per_s * models.edge_stats.macs / 1e9,
    }
