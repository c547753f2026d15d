"""Service times of the cloud for a batch: modelled, measured on this machine, or recorded.

Results must not depend on the machine's speed. The default is the cost model of the scenario's
cloud device. With ``serving.cloud_service: measured`` this machine's times are taken once, before
the run, and written into the resolved scenario as ``recorded``. The resolved scenario then
reproduces the results on any machine.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from testbed.core.errors import UserError
from testbed.core.threads import torch_threads
from testbed.engine.setting.models import ArmModels, TierModel, plain_edge
from testbed.engine.setting.run_context import RunInputs
from testbed.fleet.cost_model import inference_ms
from testbed.fleet.layer_stats import LayerStats
from testbed.fleet.queueing import BatchTimes
from testbed.scenario.serving import ServiceTimes

REPEATS = 7
WARM_UP = 2
SHORTEST_MS = 1e-3
DIGITS = 4


def batch_times(inputs: RunInputs, models: ArmModels) -> BatchTimes:
    """Return the cloud's service times of an arm, for batches of 1 to ``serving.max_batch``."""
    section = inputs.scenario.serving
    if section.cloud_service == "catalogue":
        tiers = [_modelled(inputs, tier) for tier in models.tiers]
    elif section.cloud_service == "measured":
        tiers = list(measured_times(models, section.max_batch).values())
    else:
        recorded = section.recorded_service_ms[models.arm]
        tiers = [recorded[tier.device_spec.tier] for tier in models.tiers]
    cloud, front_end = (
        np.array([column[: section.max_batch] for column in columns]) / 1000.0
        for columns in zip(*((times.cloud, times.front_end) for times in tiers), strict=True)
    )
    return BatchTimes(cloud, front_end)


def _modelled(inputs: RunInputs, tier: TierModel) -> ServiceTimes:
    sizes = range(1, inputs.scenario.serving.max_batch + 1)

    def modelled(stats: LayerStats) -> list[float]:
        return [inference_ms(inputs.cloud_device, stats, size) for size in sizes]

    return ServiceTimes(cloud=modelled(tier.cloud_stats), front_end=modelled(tier.edge_stats))


def settle_service_times(inputs: RunInputs, arms: Sequence[ArmModels]) -> RunInputs:
    """Return the inputs with measured times in the scenario, where it asks for them.

    Raises
    ------
    UserError : it gives recorded times, but not of every tier.
    """
    section = inputs.scenario.serving
    if section.cloud_service == "recorded":
        for models in arms:
            given = section.recorded_service_ms[models.arm]
            missing = [t.device_spec.tier for t in models.tiers if t.device_spec.tier not in given]
            if missing:
                raise UserError(
                    f"serving.recorded_service_ms.{models.arm}: no times of tier '{missing[0]}'"
                )
    if section.cloud_service != "measured":
        return inputs
    times = {models.arm: measured_times(models, section.max_batch) for models in arms}
    update = {"cloud_service": "recorded", "recorded_service_ms": times}
    serving = section.model_copy(update=update)
    return replace(inputs, scenario=inputs.scenario.model_copy(update={"serving": serving}))


def measured_times(models: ArmModels, largest: int) -> dict[str, ServiceTimes]:
    """Time both halves of every tier on this machine, for batches of 1 to ``largest``.

    Each time is the median CPU time of one thread over ``REPEATS`` passes after a warm-up. Powers
    of two and the largest batch are measured; times between them are interpolated.
    """
    return {
        tier.device_spec.tier: ServiceTimes(
            cloud=_by_size(models.cloud.path(number), tier.edge.front_end.feature_shape, largest),
            front_end=_by_size(
                plain_edge(tier.device_spec).on_device(), tier.device_spec.image_shape, largest
            ),
        )
        for number, tier in enumerate(models.tiers)
    }


def _by_size(module: nn.Module, shape: tuple[int, ...], largest: int) -> list[float]:
    sizes = [2**power for power in range(11) if 2**power < largest] + [largest]
    was_training = module.training
    module.eval()
    with torch_threads(1), torch.inference_mode():
        measured = [_median_ms(module, torch.zeros(size, *shape)) for size in sizes]
    module.train(was_training)
    # Force times to be non-decreasing in batch size: a decrease is noise.
    rising = np.maximum.accumulate(measured)
    every = np.interp(np.arange(1, largest + 1), sizes, rising)
    return [max(float(f"{value:.{DIGITS}g}"), SHORTEST_MS) for value in every]


def _median_ms(module: nn.Module, batch: Tensor) -> float:
    taken = []
    for _ in range(WARM_UP + REPEATS):
        started = time.thread_time()
        module(batch)
        taken.append((time.thread_time() - started) * 1000.0)
    return statistics.median(taken[WARM_UP:])
