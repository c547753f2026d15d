"""What each tier releases: bytes, the defence's statistics, and leakage measured without attacks.

No adversary sees any of it.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from clients.deployed import CHUNK
from testbed.core.seeds import generator, torch_generator
from testbed.core.threads import torch_threads
from testbed.data.federated import FederatedData, to_unit
from testbed.engine.training.fleet import TrainedArm, released_features
from testbed.privacy.leakage import measure_leakage
from testbed.privacy.mutual_information import ESTIMATORS, estimate_information
from testbed.results.schema import Information, InformationBound, Leakage
from testbed.scenario.schema import Scenario
from testbed.wire.encoding import payload_bytes

LEAKAGE_SAMPLES = 512
INFORMATION_PAIRS = 2048
RELEASE_SAMPLES = 128


def leakage_by_tier(scenario: Scenario, data: FederatedData, arm: TrainedArm) -> dict[int, Leakage]:
    """Measure the first victims' images against what each tier releases for them.

    ``information`` is None unless ``evaluation.mutual_information`` asks for it.
    """
    images = data.pool.images[data.parts.victims[:LEAKAGE_SAMPLES]]
    shown = to_unit(images)
    asked = scenario.evaluation.mutual_information
    leakage = {}
    for tier in arm.models.used():
        features = released_features(arm, images, tier).numpy()
        measures = asdict(measure_leakage(shown, features, LEAKAGE_SAMPLES))
        information = _information(scenario.seed, data, arm, tier) if asked else None
        leakage[tier] = Leakage(**measures, information=information)
    return leakage


def _information(seed: int, data: FederatedData, arm: TrainedArm, tier: int) -> Information:
    """Estimate lower bounds on I(x; z): critics learn from auxiliary images, victims are held out.

    Three in four of the pairs are of auxiliary images, as the estimator parts them.
    """
    rng, parts = generator(seed, "information pairs"), data.parts
    auxiliary = rng.permutation(np.concatenate([parts.auxiliary, parts.auxiliary_validation]))
    victims = rng.permutation(parts.victims)
    held_out = min(len(victims), len(auxiliary) // 3, INFORMATION_PAIRS // 4)
    rows = np.concatenate([auxiliary[: 3 * held_out], victims[:held_out]])
    images = data.pool.images[rows]
    pairs = to_unit(images), released_features(arm, images, tier).numpy()
    bounds = {
        name: InformationBound(**asdict(estimate_information(*pairs, name, seed)))
        for name in ESTIMATORS
    }
    return Information(pairs=len(rows), **bounds)


@dataclass(frozen=True)
class Release:
    """What a tier puts on the wire.

    Attributes
    ----------
    feature_bytes : mean size of the arrays that travel for one image.
    statistics : what the defence reports of its release, by name with unit; None where infinite.
    """

    feature_bytes: int
    statistics: dict[str, int | float | None]


def releases_by_tier(data: FederatedData, arm: TrainedArm) -> dict[int, Release]:
    """Measure what each tier puts on the wire for the first victims."""
    images = data.pool.images[data.parts.victims]
    return {tier: measure_release(arm, tier, images) for tier in arm.models.used()}


def measure_release(arm: TrainedArm, tier: int, images: NDArray[np.uint8]) -> Release:
    """Release images (N, C, H, W) as a tier's requests do, one by one on the wire."""
    runner = arm.deployed(tier).runner
    rng = torch_generator(arm.models.tiers[tier].device_spec.seed, "release statistics")
    chosen = images[:RELEASE_SAMPLES]
    with torch_threads(arm.cloud.threads), torch.no_grad():
        parts = [
            runner.before_and_after(torch.from_numpy(to_unit(chosen[start : start + CHUNK])), rng)
            for start in range(0, len(chosen), CHUNK)
        ]
        z, released = (torch.cat(part) for part in zip(*parts, strict=True))
        sizes = [payload_bytes(runner.encode(one[None])) for one in released]
        statistics = runner.release_statistics(z, released)
    return Release(
        feature_bytes=round(float(np.mean(sizes))),
        # JSON has no infinities, which no noise or equal features give.
        statistics={
            name: value if np.isfinite(value) else None for name, value in statistics.items()
        },
    )
