"""What features tell about their images without an attack, by tier; no adversary sees any of it."""

from dataclasses import asdict
from typing import Any

import numpy as np

from testbed.core.seeds import generator
from testbed.data.federated import FederatedData, to_unit
from testbed.engine.training.fleet import TrainedArm, released_features
from testbed.privacy.leakage import measure_leakage
from testbed.privacy.mutual_information import ESTIMATORS, estimate_information
from testbed.scenario.schema import Scenario

LEAKAGE_SAMPLES = 512
INFORMATION_PAIRS = 2048

Row = dict[str, Any]


def leakage_by_tier(scenario: Scenario, data: FederatedData, arm: TrainedArm) -> dict[int, Row]:
    """Measure the first victims' images against what each tier releases for them.

    ``information`` is None unless ``evaluation.mutual_information`` asks for it.
    """
    images = data.pool.images[data.parts.victims[:LEAKAGE_SAMPLES]]
    shown = to_unit(images)
    measured: dict[int, Row] = {}
    for tier in arm.models.used():
        features = released_features(arm, images, tier).numpy()
        row = measure_leakage(shown, features, LEAKAGE_SAMPLES).as_dict()
        asked = scenario.evaluation.mutual_information
        row["information"] = _information(scenario.seed, data, arm, tier) if asked else None
        measured[tier] = row
    return measured


def _information(seed: int, data: FederatedData, arm: TrainedArm, tier: int) -> Row:
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
    bounds: Row = {name: asdict(estimate_information(*pairs, name, seed)) for name in ESTIMATORS}
    return {"pairs": len(rows), **bounds}
