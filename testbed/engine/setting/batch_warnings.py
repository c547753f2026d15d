"""Warnings on the batches of a training: what a loss cannot measure on so few images."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from testbed.core.seeds import generator
from testbed.data.federated import to_unit
from testbed.engine.setting.models import ArmModels
from testbed.engine.setting.run_context import RunInputs
from testbed.privacy.leakage import distance_correlation_v

TOLD_APART = 0.5
"""Squared distance correlation of independent features from which on a warning is due."""

_DRAWS = 20
_LARGEST_BATCH = 512


def with_batch_warnings(inputs: RunInputs, models: Sequence[ArmModels]) -> RunInputs:
    """Return the inputs with the warnings on their batches, for terminal, report and dry run."""
    found = batch_warnings(inputs, models)
    data = replace(inputs.data, warnings=(*inputs.data.warnings, *found))
    return replace(inputs, data=data)


def batch_warnings(inputs: RunInputs, models: Sequence[ArmModels]) -> tuple[str, ...]:
    """Say which arms penalise a distance correlation that their batches are too small for.

    The V-statistic in such losses is biased upwards: it is near 1 for few samples of many
    dimensions, whether the two sides depend on each other or not.
    """
    training = inputs.scenario.training
    provider = training.protocol == "provider"
    size = training.provider.batch_size if provider else training.batch_size
    key = "training.provider.batch_size" if provider else "training.batch_size"
    warnings = []
    for arm in models:
        used = [arm.tiers[tier].edge for tier in arm.used()]
        penalised = [edge for edge in used if edge.defence.penalises_distance_correlation]
        dimensions = {int(np.prod(edge.front_end.feature_shape)) for edge in penalised}
        value = max((independent_value(inputs, size, count) for count in dimensions), default=0.0)
        if value > TOLD_APART:
            warnings.append(
                f"arm '{arm.arm}': the distance correlation in its loss can hardly tell noise from "
                f"copies. On batches of {size} images, features of {max(dimensions):,} numbers "
                f"that are independent of the images have a squared distance correlation of "
                f"{value:.3f} of at most 1; set a larger {key}"
            )
    return tuple(warnings)


def independent_value(inputs: RunInputs, size: int, dimension: int) -> float:
    """Return the mean V-statistic of a batch of training images and independent normal features."""
    rng = generator(inputs.scenario.seed, "independent features", size, dimension)
    rows, size = inputs.data.parts.training, min(size, _LARGEST_BATCH)
    values = []
    for _ in range(_DRAWS):
        chosen = rng.choice(rows, min(size, len(rows)), replace=False)
        features = rng.standard_normal((len(chosen), dimension))
        values.append(distance_correlation_v(to_unit(inputs.data.pool.images[chosen]), features))
    return float(np.mean(values))
