"""Adversaries at the cloud during an arm's training, and the traces that devices could detect.

They run beside the server and see only what the protocol sends there. They are deterministic for
any number of hosts. Checkpoints hold their state.

Honest gradients of a classification task are similar for images of the same class and different
for others. Gradients of a hijacking attack need not be (Fu et al., Focusing on Pinocchio's nose: a
gradients scrutinizer to thwart split-learning hijacking attacks, NDSS 2023; Erdogan, Kupcu, Cicek,
SplitGuard, WPES 2022). The gap between the mean cosines within and between classes is recorded for
the gradients that were sent, and for the honest ones on the same features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.cloud import Cloud
from server.training_step import TrainingStep
from testbed.adversaries.training_attacker import TrainingAttacker, TrainingView, WatchedStep
from testbed.core.compute import on_device
from testbed.core.errors import UserError
from testbed.core.registries import ATTACKS
from testbed.core.seeds import child
from testbed.core.state_dicts import below, under
from testbed.core.threads import torch_threads
from testbed.engine.setting.auxiliary_data import held_images
from testbed.engine.setting.models import ArmModels
from testbed.engine.setting.run_context import RunInputs
from testbed.scenario.adversary import Adversary
from testbed.scenario.schema import Arm, Scenario

_TRACES = "traces"


@dataclass(frozen=True)
class AttackerOnTier:
    """An adversary's attacker of one tier's training."""

    adversary: Adversary
    tier: int
    training_attacker: TrainingAttacker


class TrainingAttacks:
    """All adversaries at the cloud during one arm's training (``server.training_step``)."""

    def __init__(self, cloud: Cloud, attackers: Sequence[AttackerOnTier]) -> None:
        self._cloud = cloud
        self._attackers = attackers
        # Sums over devices and steps: label gap of honest gradients, of those sent, and batches.
        self._traces = torch.zeros(3, dtype=torch.float64)

    def gradients(self, step: TrainingStep) -> list[Tensor]:
        """Show every attacker its tier's part of a step; return the gradients to send."""
        sent = list(step.gradients)
        # One thread, as for every attack: the networks are small, and threads set the bits.
        with torch_threads(1), torch.random.fork_rng(devices=[]):
            # Attackers must not change the training's batch statistics.
            self._cloud.model.eval()
            for attacker in self._attackers:
                own = [index for index, tier in enumerate(step.tiers) if tier == attacker.tier]
                if not own:
                    continue
                watched = WatchedStep(
                    [on_device(step.features[index]) for index in own],
                    [on_device(step.targets[index]) for index in own],
                    [on_device(step.gradients[index]) for index in own],
                    lambda z, tier=attacker.tier: self._cloud.model(z, tier),  # type: ignore[misc]
                )
                steered = attacker.training_attacker.watch(watched)
                for place, gradient in enumerate(steered or ()):
                    self._note(watched.gradients[place], gradient, watched.targets[place])
                    sent[own[place]] = gradient
        return sent

    def _note(self, honest: Tensor, sent: Tensor, targets: Tensor) -> None:
        classes = targets.argmax(dim=1)
        gaps = [label_gap(gradient, classes) for gradient in (honest, sent)]
        if gaps[0] is not None and gaps[1] is not None:
            self._traces += torch.tensor([gaps[0], gaps[1], 1.0], dtype=torch.float64)

    def memory(self, adversary: str, tier: int) -> Mapping[str, NDArray[np.float32]] | None:
        """Return the weights an adversary learned on a tier, or None if it did not attack it."""
        for attacker in self._attackers:
            if (attacker.adversary.name, attacker.tier) == (adversary, tier):
                return attacker.training_attacker.memory()
        return None

    def traces(self) -> dict[str, Any]:
        """Return the mean label gaps of honest and sent gradients, if there are any."""
        honest, sent, count = self._traces.tolist()
        known = count > 0
        return {
            "label_gap_honest": honest / count if known else None,
            "label_gap_sent": sent / count if known else None,
            "batches": int(count),
        }

    def state(self) -> dict[str, Tensor]:
        """Return everything as flat tensors, for a checkpoint."""
        tensors = {_TRACES: self._traces}
        for number, attacker in enumerate(self._attackers):
            tensors |= under(f"{number}.", attacker.training_attacker.state())
        return {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned."""
        self._traces = tensors[_TRACES].clone()
        for number, attacker in enumerate(self._attackers):
            attacker.training_attacker.load_state(below(f"{number}.", tensors))


def label_gap(gradient: Tensor, classes: Tensor) -> float | None:
    """Return the mean cosine of gradients of the same class minus that of different classes.

    Parameters
    ----------
    gradient, classes : of one device's batch, (n, C, H, W) and (n,).

    Returns
    -------
    Between -2 and 2; None where the batch has no two images of one class, or of one class only.
    """
    flat = torch.nn.functional.normalize(gradient.flatten(1).double(), dim=1)
    cosines = flat @ flat.T
    same = classes[:, None] == classes[None, :]
    other = ~same
    same.fill_diagonal_(fill_value=False)
    if not same.any() or not other.any():
        return None
    return float(cosines[same].mean() - cosines[other].mean())


def at_training(scenario: Scenario, arm: Arm) -> list[Adversary]:
    """Return the adversaries that are at the cloud while an arm trains."""
    return [
        adversary
        for adversary in scenario.adversaries
        if adversary.threat.watches_training and attacks_arm(adversary, arm)
    ]


def attacks_arm(adversary: Adversary, arm: Arm) -> bool:
    """Return whether an adversary attacks an arm; hijackers attack only the arm they hijacked."""
    return not adversary.threat.steers_training or arm.hijacked_by == adversary.name


def arm_training_attacks(
    inputs: RunInputs, arm: Arm, models: ArmModels, cloud: Cloud
) -> TrainingAttacks | None:
    """Return the attackers of an arm's training, or None without any.

    Raises
    ------
    UserError : an adversary has no auxiliary images, or its networks do not fit the images.
    """
    scenario = inputs.scenario
    attackers = []
    for adversary in at_training(scenario, arm):
        auxiliary, _ = held_images(adversary, inputs.data, inputs.foreign, scenario.seed)
        if len(auxiliary.labels) == 0:
            raise UserError(
                f"adversaries.{adversary.name}: attack '{adversary.attack.name}' has no auxiliary "
                "images; raise data.max_images, data.splits.auxiliary or knowledge.auxiliary_share"
            )
        # A seed of its own, equal on every arm: an attack must not know the scenario's seed.
        draw = child(scenario.seed, f"adversary {adversary.name}")
        attack: Any = ATTACKS.create(adversary.attack.name, adversary.attack.options)
        for tier in models.used():
            device_spec, edge = models.tiers[tier].device_spec, models.tiers[tier].edge
            view = TrainingView(
                device_spec.num_classes,
                auxiliary,
                device_spec.front_end,
                edge.front_end.feature_shape,
            )
            try:
                attackers.append(
                    AttackerOnTier(adversary, tier, attack.training_attacker(view, draw))
                )
            except ValueError as error:
                raise UserError(f"adversaries.{adversary.name}: {error}") from None
    return TrainingAttacks(cloud, attackers) if attackers else None
