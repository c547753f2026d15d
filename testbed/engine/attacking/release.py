"""What a tier's defence releases: bytes on the wire, and what the defence reports of itself."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clients.deployed import CHUNK
from testbed.core.seeds import torch_generator
from testbed.core.threads import torch_threads
from testbed.data.federated import FederatedData, to_unit
from testbed.engine.training.fleet import TrainedArm
from testbed.wire.encoding import payload_bytes

SAMPLES = 128


def releases_by_tier(data: FederatedData, arm: TrainedArm) -> dict[int, dict[str, Any]]:
    """Measure what each tier puts on the wire for the first victims."""
    images = data.pool.images[data.parts.victims]
    return {tier: measure_release(arm, tier, images) for tier in arm.models.used()}


def measure_release(arm: TrainedArm, tier: int, images: NDArray[np.uint8]) -> dict[str, Any]:
    """Release images (N, C, H, W) as a tier's requests do, one by one on the wire.

    Returns
    -------
    ``feature_bytes``, the mean size of the arrays that travel for one image, and ``statistics``,
    the defence's own account by name.
    """
    runner = arm.deployed(tier).runner
    rng = torch_generator(arm.models.tiers[tier].device_spec.seed, "release statistics")
    chosen = images[:SAMPLES]
    with torch_threads(arm.cloud.threads), torch.no_grad():
        parts = [
            runner.before_and_after(torch.from_numpy(to_unit(chosen[start : start + CHUNK])), rng)
            for start in range(0, len(chosen), CHUNK)
        ]
        z, released = (torch.cat(part) for part in zip(*parts, strict=True))
        sizes = [payload_bytes(runner.encode(one[None])) for one in released]
        statistics = runner.release_statistics(z, released)
    return {
        "feature_bytes": round(float(np.mean(sizes))),
        # Infinities (no noise at all, or features that are all alike) are not numbers in JSON.
        "statistics": {
            name: value if np.isfinite(value) else None for name, value in statistics.items()
        },
    }
