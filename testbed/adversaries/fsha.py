"""Malicious cloud: steers the devices' front-end into a feature space that it can decode.

Before the first round the cloud trains a pilot autoencoder on its auxiliary images: a shadow
front-end with a decoder. During the training it replaces the task's gradients by those of a
discriminator between the devices' features and the pilot's of the same class. The devices' updates
then make their front-end imitate the pilot, and the pilot's decoder decodes their features. The
task is abandoned. Gradients are scaled to the norm of the honest ones, so that their size does not
reveal the attack. Their direction may: see ``testbed.engine.training.attackers``.

References
----------
Pasquini, Ateniese, Bernaschi, Unleashing the tiger: inference attacks on split learning (FSHA),
arXiv 2012.02670, CCS 2021, section 4, equations 1 to 3. There the pilot is trained throughout and
the discriminator is not conditioned on classes. Here the pilot is trained first, the discriminator
gets the classes, and the gradient of the maximum mean discrepancy (``shadow_front_end``) is added,
since trainings have tens of rounds, not thousands.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from testbed.adversaries.decoder_network import Capacity
from testbed.adversaries.effort import Effort
from testbed.adversaries.shadow_front_end import (
    ClassDiscriminator,
    discrepancy,
    taken_for_real,
    told_apart,
)
from testbed.adversaries.training_attacker import (
    DECODER,
    SCALE,
    TrainingAttack,
    TrainingAttacker,
    TrainingView,
    WatchedStep,
)
from testbed.core.registries import ATTACKS
from testbed.core.registry import NonNegative, Options, Positive
from testbed.scenario.threat_model import ThreatModel

PILOT, CRITIC = "pilot", "critic"


class FshaOptions(Options):
    """Options of the malicious cloud."""

    capacity: Capacity = "small"
    pilot_steps: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=300, description="steps of the pilot autoencoder, before the first round"
    )
    updates_per_step: Annotated[int, Field(ge=1, le=100)] = Field(
        default=4, description="updates of the discriminator per training step of the fleet"
    )
    batch_size: Annotated[int, Field(ge=4)] = 24
    learning_rate: Positive = 0.002
    discrepancy_weight: NonNegative = Field(
        default=10.0, description="of the MMD from the pilot's features, beside the discriminator"
    )
    strength: Positive = Field(
        default=1.0, description="norm of the sent gradients relative to the honest ones"
    )
    discriminator_width: Annotated[int, Field(ge=4)] = 32


class Hijacking(TrainingAttacker):
    """Pilot autoencoder and discriminator."""

    def __init__(self, options: FshaOptions, view: TrainingView, seed: int, name: str) -> None:
        super().__init__(options, view, seed, name)
        self.add_front_end(PILOT)
        self.networks[CRITIC] = ClassDiscriminator(
            view.feature_shape[0],
            view.num_classes,
            options.discriminator_width,
            self.rng("discriminator"),
        )
        for network in (PILOT, DECODER, CRITIC):
            self.train_with(network, options.learning_rate)

    def watch(self, step: WatchedStep) -> list[Tensor]:
        """Train the discriminator, and return its gradients in place of the task's."""
        if self.steps == 0:
            self._train_pilot()
        self.networks[PILOT].eval()  # here, because a resumed training skips the pilot's training
        sent, labels = step.received()
        rng = self.rng("batches", self.steps)
        self.steps += 1
        scale, critic = self.networks[SCALE], self.networks[CRITIC]
        scaled = scale(sent)
        for _ in range(self.options.updates_per_step):
            x, pilot_labels = self.auxiliary_batch(self.options.batch_size, rng)
            with torch.no_grad():
                pilot = scale(self.networks[PILOT](x))
            chosen = torch.randperm(len(scaled), generator=rng)[: self.options.batch_size]
            real = critic(pilot, pilot_labels)
            self.descend(CRITIC, told_apart(real, critic(scaled[chosen], labels[chosen])))
        steered = sent.clone().requires_grad_()
        scaled = scale(steered)
        loss = taken_for_real(critic(scaled, labels)).mean()
        if self.options.discrepancy_weight > 0.0:
            loss = loss + self.options.discrepancy_weight * discrepancy(scaled, pilot, rng)
        (pull,) = torch.autograd.grad(loss, steered)
        parts = torch.split(pull, [len(z) for z in step.features])
        return [
            _of_norm(part, self.options.strength * honest.norm())
            for part, honest in zip(parts, step.gradients, strict=True)
        ]

    def _train_pilot(self) -> None:
        """Train front-end and decoder, once, to reconstruct the auxiliary images."""
        pilot, scale = self.networks[PILOT], self.networks[SCALE]
        rng = self.rng("pilot batches")
        pilot.train()
        for _ in range(self.options.pilot_steps):
            x, _ = self.auxiliary_batch(self.options.batch_size, rng)
            features = pilot(x)
            scale.update(features)  # type: ignore[operator]
            loss = functional.mse_loss(self.decoded(features), x)
            self.descend(PILOT, loss, retain_graph=True)
            self.descend(DECODER, loss)


def _of_norm(gradient: Tensor, norm: Tensor) -> Tensor:
    """Return the gradient with another norm; zero stays zero."""
    scaled: Tensor = gradient * (norm / gradient.norm().clamp_min(1e-12))
    return scaled


@ATTACKS.register(
    "fsha",
    "at the cloud in training, malicious: steers the front-end into a space it can decode",
    FshaOptions,
    source="arXiv 2012.02670",
)
class Fsha(TrainingAttack):
    """Hijacks the split-federated training of an arm (``arms.<n>.hijacked_by``)."""

    name = "fsha"
    attacker = Hijacking
    threat = ThreatModel(
        labels=True, architecture=True, watches_training=True, steers_training=True
    )
    search_space: ClassVar = {"updates_per_step": (2, 8, 20), "strength": (1.0, 3.0)}

    def training_effort(self, view: TrainingView, step: WatchedStep, steps: int) -> list[Effort]:
        """Return the steps of the pilot, then those beside the fleet."""
        options = self.options.model_copy(update={"pilot_steps": 1})
        pilot = Hijacking(options, view, 0, self.name)
        pilot.watch(step)
        return [
            Effort(
                self.options.pilot_steps, f"pilot, {options!r}", pilot._train_pilot, of_arm=True
            ),
            Effort(steps, f"{options!r}", lambda: pilot.watch(step), of_arm=True),
        ]
