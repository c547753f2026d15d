"""Memory of the attacks, estimated from shapes before anything runs."""

import math
from collections.abc import Iterator, Sequence

import psutil

from testbed.adversaries.base import Attack
from testbed.adversaries.effort import Sizes
from testbed.core.errors import UserError
from testbed.core.registries import ATTACKS
from testbed.engine.network.training_tap import MAX_TRAINING_VICTIMS
from testbed.engine.setting.auxiliary_data import held_images
from testbed.engine.setting.models import ArmModels
from testbed.engine.setting.run_context import RunInputs
from testbed.results import formats
from testbed.scenario.adversary import Adversary

OWN_BYTES = 600 << 20
"""Of an attack's process with its libraries, beside what the attack takes."""


def check_memory(inputs: RunInputs, arms: Sequence[ArmModels]) -> None:
    """Refuse attacks that this machine's memory does not hold, each on its own.

    Raises
    ------
    UserError : names the adversary, the estimate and what to change.
    """
    available = psutil.virtual_memory().total
    for adversary in inputs.scenario.adversaries:
        for arm in arms:
            needed = attack_bytes(inputs, arm, adversary)
            if needed is not None and needed + OWN_BYTES > available:
                raise UserError(
                    f"adversaries.{adversary.name}.attack: '{adversary.attack.name}' on arm "
                    f"'{arm.arm}' takes about {formats.scaled(needed, 'B')} of memory, and this "
                    f"machine has {formats.scaled(available, 'B')}; lower "
                    "knowledge.auxiliary_share or data.image_size_px, cut the front-end where it "
                    "sends fewer features, or choose another attack"
                )


def attack_bytes(inputs: RunInputs, arm: ArmModels, adversary: Adversary) -> int | None:
    """Return about how much memory an adversary's attack takes on the largest tier of an arm."""
    attack: Attack = ATTACKS.create(adversary.attack.name, adversary.attack.options)
    found = (attack.memory_bytes(sizes) for sizes in _sizes(inputs, arm, adversary))
    return max((needed for needed in found if needed is not None), default=None)


def _sizes(inputs: RunInputs, arm: ArmModels, adversary: Adversary) -> Iterator[Sizes]:
    """Yield what the attack works on, by tier; no tier has more victims than there are."""
    scenario, pool = inputs.scenario, inputs.data.pool
    auxiliary, validation = held_images(adversary, inputs.data, inputs.foreign, scenario.seed)
    victims = len(inputs.data.parts.victims)
    if adversary.attacks_training:
        victims = max(victims, MAX_TRAINING_VICTIMS)
    channels, height, width = pool.image_shape
    for tier in arm.used():
        edge = arm.tiers[tier].edge
        yield Sizes(
            auxiliary=len(auxiliary.labels),
            validation=len(validation.labels),
            intercepts=victims,
            features=math.prod(edge.front_end.feature_shape),
            pixels=channels * height * width,
            is_random=edge.defence.equivalent_noise_std() is not None,
        )
