"""Semi-honest simulator: the cloud follows the protocol, and trains a copy of the devices' half.

During the training the cloud trains a shadow front-end on auxiliary images. The cloud model must
classify its features correctly, and a discriminator must not distinguish them from the devices'
features of the same class. A decoder learns to invert the simulated features. A second
discriminator makes its reconstructions of the devices' features look like images of their class.
Devices receive the honest gradients, so they cannot detect the attack.

References
----------
Zhu, Luo, Zhang, Jiang, Passive inference attacks on split learning via adversarial regularization
(SDAR), arXiv 2310.10483, NDSS 2025, section IV. Here features are also matched by the maximum mean
discrepancy, as in ``substitute``, since trainings have tens of rounds, not thousands.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from testbed.adversaries.decoder_network import Capacity
from testbed.adversaries.shadow_front_end import (
    ClassDiscriminator,
    discrepancy,
    taken_for_real,
    told_apart,
)
from testbed.adversaries.training_attacker import (
    DECODER,
    SCALE,
    Classify,
    TrainingAttack,
    TrainingAttacker,
    TrainingView,
    WatchedStep,
)
from testbed.core.registries import ATTACKS
from testbed.core.registry import NonNegative, Options, Positive
from testbed.scenario.threat_model import ThreatModel

SIMULATOR, FEATURE_JUDGE, IMAGE_JUDGE = "simulator", "feature_judge", "image_judge"


class SdarOptions(Options):
    """Options of the simulator."""

    capacity: Capacity = "small"
    updates_per_step: Annotated[int, Field(ge=1, le=100)] = Field(
        default=8, description="updates of every network per training step of the fleet"
    )
    batch_size: Annotated[int, Field(ge=4)] = 24
    learning_rate: Positive = 0.002
    discrepancy_weight: NonNegative = Field(
        default=1.0, description="of the MMD between the features"
    )
    feature_weight: NonNegative = Field(
        default=0.04, description="of the discriminator of features, beside the cloud's task"
    )
    image_weight: NonNegative = Field(
        default=0.0005, description="of the discriminator of images, beside the decoder's error"
    )
    discriminator_width: Annotated[int, Field(ge=4)] = 32


class SimulatorTraining(TrainingAttacker):
    """Simulator, decoder and two discriminators, a few updates per step of the fleet."""

    def __init__(self, options: SdarOptions, view: TrainingView, seed: int, name: str) -> None:
        super().__init__(options, view, seed, name)
        self.add_front_end(SIMULATOR)
        channels, classes, width = (
            view.feature_shape[0],
            view.num_classes,
            options.discriminator_width,
        )
        rng = self.rng("discriminators")
        self.networks[FEATURE_JUDGE] = ClassDiscriminator(channels, classes, width, rng)
        image_channels = view.auxiliary.images.shape[1]
        self.networks[IMAGE_JUDGE] = ClassDiscriminator(image_channels, classes, width, rng, 2)
        for network in (SIMULATOR, DECODER, FEATURE_JUDGE, IMAGE_JUDGE):
            self.train_with(network, options.learning_rate)

    def watch(self, step: WatchedStep) -> None:
        """Learn from the devices' features; their gradients stay unchanged."""
        sent, labels = step.received()
        scale = self.networks[SCALE]
        scale.update(sent)  # type: ignore[operator]
        rng = self.rng("batches", self.steps)
        self.steps += 1
        self.networks[SIMULATOR].train()
        for _ in range(self.options.updates_per_step):
            auxiliary = self.auxiliary_batch(self.options.batch_size, rng)
            chosen = torch.randperm(len(sent), generator=rng)[: self.options.batch_size]
            seen = sent[chosen], labels[chosen]
            simulated = self._update_simulator(auxiliary, seen, step.classify, rng)
            self._update_decoder(auxiliary, seen, simulated)

    def _update_simulator(
        self,
        auxiliary: tuple[Tensor, Tensor],
        seen: tuple[Tensor, Tensor],
        classify: Classify,
        rng: torch.Generator,
    ) -> Tensor:
        """Fit the simulator to task, discriminator and discrepancy; return its features (N, ...).

        Parameters
        ----------
        auxiliary, seen : images, and features of the devices, each with their one-hot classes.
        """
        (x, classes), (sent, labels), options = auxiliary, seen, self.options
        judge, scale = self.networks[FEATURE_JUDGE], self.networks[SCALE]
        real = scale(sent)
        features: Tensor = self.networks[SIMULATOR](x)
        fake = scale(features)
        loss = functional.cross_entropy(classify(features), classes)
        if options.discrepancy_weight > 0.0:
            loss = loss + options.discrepancy_weight * discrepancy(fake, real, rng)
        if options.feature_weight > 0.0:
            loss = loss + options.feature_weight * taken_for_real(judge(fake, classes)).mean()
        self.descend(SIMULATOR, loss)
        if options.feature_weight > 0.0:
            judged = told_apart(judge(real, labels), judge(fake.detach(), classes))
            self.descend(FEATURE_JUDGE, judged)
        return features.detach()

    def _update_decoder(
        self,
        auxiliary: tuple[Tensor, Tensor],
        seen: tuple[Tensor, Tensor],
        simulated: Tensor,
    ) -> None:
        """Fit the decoder to simulated features; decoded real features must look like images."""
        (x, classes), (sent, labels), weight = auxiliary, seen, self.options.image_weight
        judge = self.networks[IMAGE_JUDGE]
        loss = functional.mse_loss(self.decoded(simulated), x)
        if weight > 0.0:
            rebuilt = self.decoded(sent)
            loss = loss + weight * taken_for_real(judge(rebuilt, labels)).mean()
        self.descend(DECODER, loss)
        if weight > 0.0:
            self.descend(
                IMAGE_JUDGE, told_apart(judge(x, classes), judge(rebuilt.detach(), labels))
            )


@ATTACKS.register(
    "sdar",
    "at the cloud in training, semi-honest: simulates the devices' front-end, and decodes",
    SdarOptions,
    source="arXiv 2310.10483",
)
class Sdar(TrainingAttack):
    """Watches split-federated training and changes nothing."""

    name = "sdar"
    attacker = SimulatorTraining
    threat = ThreatModel(labels=True, architecture=True, watches_training=True)
    search_space: ClassVar = {
        "updates_per_step": (2, 8, 20),
        "discrepancy_weight": (0.0, 1.0),
        "feature_weight": (0.0, 0.04),
    }
