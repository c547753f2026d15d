"""The run's front-ends timed on this host and scaled to its devices, beside the cost model's times.

It depends on the host and so belongs to host.json; no result depends on it.
"""

import functools
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from testbed.engine.setting.models import ArmModels, TierModel, plain_edge
from testbed.engine.setting.run_context import RunInputs
from testbed.fleet.calibration.second_estimate import HostRates, host_cpu_ms
from testbed.fleet.cost_model import inference_ms, serving_feasibility

REPEATS = 5


@functools.cache
def _rates() -> HostRates:
    """Return this host's rates; they are measured once in a process."""
    return HostRates(REPEATS)


def second_estimates(inputs: RunInputs, arms: Sequence[ArmModels]) -> list[dict[str, Any]]:
    """Return both estimates of the front-end's latency by arm and device class.

    Medians over the devices that can run it and have a second estimate (its reference network is
    at hand), in ms, without the devices' own jitter. ``disagreement`` is the second over the first;
    ``devices`` counts them, ``unknown_devices`` the others that can run it.
    """
    fleet = inputs.fleet
    rows: list[dict[str, Any]] = []
    for models in arms:
        host_ms = [_host_ms(tier) for tier in models.tiers]
        known: dict[str, list[tuple[float, float]]] = {}
        unknown: Counter[str] = Counter()
        for device in range(len(fleet)):
            model, number = fleet.device(device), int(models.tier_of[device])
            stats = models.tiers[number].edge_stats
            if not serving_feasibility(model, stats).fits:
                continue
            of_class = known.setdefault(model.device_class, [])
            second_ms = _rates().second_estimate_ms(model, host_ms[number])
            if second_ms is None:
                unknown[model.device_class] += 1
            else:
                of_class.append((inference_ms(model, stats), second_ms))
        for name, both in sorted(known.items()):
            rows.append(
                {
                    "arm": models.arm,
                    "device_class": name,
                    "devices": len(both),
                    "unknown_devices": unknown[name],
                    **_medians(both),
                }
            )
    return rows


def _host_ms(tier: TierModel) -> float:
    module = plain_edge(tier.device_spec).on_device()
    return host_cpu_ms(module, tier.device_spec.image_shape, REPEATS)


def _medians(pairs: list[tuple[float, float]]) -> dict[str, float | None]:
    if not pairs:
        return {"model_ms": None, "second_ms": None, "disagreement": None}
    return {
        "model_ms": statistics.median(first for first, _ in pairs),
        "second_ms": statistics.median(second for _, second in pairs),
        "disagreement": statistics.median(second / first for first, second in pairs),
    }
