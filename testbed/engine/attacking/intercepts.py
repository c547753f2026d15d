"""Sorts what an adversary's tap read by the tier that sent it, and says what it can do with it."""

from collections.abc import Mapping

import numpy as np

from clients.deployed import DeployedFrontEnd
from testbed.engine.attacking.error_bounds import ArmErrorBound
from testbed.engine.attacking.evidence import TierIntercepts
from testbed.engine.attacking.replays import averaged_intercepts
from testbed.engine.attacking.scoring import victims_of
from testbed.engine.network.taps import Intercept, Tap
from testbed.engine.serving.serve import ServedArm
from testbed.engine.setting.auxiliary_data import auxiliary_classes
from testbed.engine.setting.models import ArmModels
from testbed.engine.setting.positions import colluding_device
from testbed.engine.setting.run_context import RunInputs
from testbed.scenario.adversary import Adversary


def read_by_tier(
    inputs: RunInputs,
    models: ArmModels,
    adversary: Adversary,
    tap: Tap,
    served: ServedArm,
    of_tiers: tuple[Mapping[int, DeployedFrontEnd], Mapping[int, ArmErrorBound]],
) -> list[TierIntercepts]:
    """Return what the adversary read of each tier: tiers it can attack, or could transfer to.

    Parameters
    ----------
    of_tiers : the deployed front-end and the error bound of each tier.
    """
    if not adversary.attacks_serving:
        return []
    attacked = _attacked(inputs, adversary, tap, served)
    deployed, error_bounds = of_tiers
    tiers_read = []
    for tier in sorted({int(models.tier_of[item.device]) for item in attacked}):
        items = [item for item in attacked if models.tier_of[item.device] == tier]
        holds = holds_weights(inputs, models, adversary, tier)
        mountable = adversary.can_attack(holds)
        if not mountable and not adversary.transfer:
            continue
        features = np.stack([item.features for item in items])
        replays = adversary.knowledge.replays
        if replays > 1:
            truth = victims_of(inputs, models, items, served).images
            features = averaged_intercepts(deployed[tier], truth, features, replays)
        compared = adversary.rebuilds_images
        smoothed = error_bounds[tier].smoothed_victims(replays) if compared else None
        tiers_read.append(
            TierIntercepts(adversary, tier, holds, items, features, smoothed, mountable)
        )
    return tiers_read


def holds_weights(inputs: RunInputs, models: ArmModels, adversary: Adversary, tier: int) -> bool:
    """Return whether the adversary has a tier's weights; a colluding device has its own tier's."""
    seed, fleet = inputs.scenario.seed, inputs.fleet
    own = colluding_device(adversary.name, adversary.position, len(fleet), seed)
    colludes = own is not None and int(models.tier_of[own]) == tier
    return adversary.knowledge.weights or colludes


def _attacked(
    inputs: RunInputs, adversary: Adversary, tap: Tap, served: ServedArm
) -> list[Intercept]:
    """Return the answered intercepts of victims that the adversary is to be scored on."""
    seed, pool = inputs.scenario.seed, inputs.data.pool
    own = colluding_device(adversary.name, adversary.position, len(inputs.fleet), seed)
    classes = auxiliary_classes(adversary, pool.num_classes, seed)
    images = {item.request: item.image for item in served.requests}
    return [
        item
        for item in tap.intercepts
        if item.request in served.answers
        and item.device != own
        and (classes is None or int(pool.labels[images[item.request]]) not in classes)
    ]
