"""Semi-honest simulator: the cloud follows the protocol, and trains a copy of the devices' half.

While the fleet trains, the cloud trains a front-end of its own on auxiliary images: its features
must let the cloud model answer right, and a discriminator must not tell them from those that
devices send of the same class. A decoder learns the way back from the simulated features; a second
discriminator demands of what it makes of the devices' features that it look like an image of their
class. Nothing that devices receive changes, so nobody can notice.

References
----------
Zhu, Luo, Zhang, Jiang, Passive inference attacks on split learning via adversarial regularization
(SDAR), arXiv 2310.10483, NDSS 2025, section IV. Here features are also matched by the maximum mean
discrepancy, as in ``substitute``, since trainings are tens of rounds long and not thousands.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from testbed.adversaries.base import Evidence, Reconstruction
from testbed.adversaries.discriminator import ClassDiscriminator, taken_for_real, told_apart
from testbed.adversaries.substitute import discrepancy
from testbed.adversaries.training_attacker import (
    DECODER,
    SCALE,
    Classify,
    TrainingAttacker,
    TrainingView,
    decode_intercepts,
)
from testbed.core.registries import ATTACKS
from testbed.core.registry import Options
from testbed.scenario.threat_model import ThreatModel

SIMULATOR, FEATURE_JUDGE, IMAGE_JUDGE = "simulator", "feature_judge", "image_judge"
Weight = Annotated[float, Field(ge=0.0)]


class SdarOptions(Options):
    """Options of the simulator."""

    capacity: Literal["small", "medium", "large"] = "small"
    updates_per_step: Annotated[int, Field(ge=1, le=100)] = Field(
        default=8, description="updates of every network per training step of the fleet"
    )
    batch_size: Annotated[int, Field(ge=4)] = 24
    learning_rate: Annotated[float, Field(gt=0.0)] = 0.002
    discrepancy_weight: Weight = Field(default=1.0, description="of the MMD between the features")
    feature_weight: Weight = Field(
        default=0.04, description="of the discriminator of features, beside the cloud's task"
    )
    image_weight: Weight = Field(
        default=0.0005, description="of the discriminator of images, beside the decoder's error"
    )
    discriminator_width: Annotated[int, Field(ge=4)] = 32


@ATTACKS.register(
    "sdar",
    "at the cloud in training, semi-honest: simulates the devices' front-end, and decodes",
    SdarOptions,
    source="arXiv 2310.10483",
)
class Sdar:
    """Watches split-federated training and changes nothing."""

    is_anchor = False
    rebuilds_images = True
    threat = ThreatModel(labels=True, architecture=True, watches_training=True)
    search_space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "updates_per_step": (2, 8, 20),
        "discrepancy_weight": (0.0, 1.0),
        "feature_weight": (0.0, 0.04),
    }

    def __init__(self, options: SdarOptions) -> None:
        self.options = options

    def training_attacker(self, view: TrainingView, seed: int) -> TrainingAttacker:
        """Return what accompanies the training of one tier."""
        return SimulatorTraining(self.options, view, seed)

    def mount(
        self, evidence: Evidence, seed: int, progress: Callable[[str], None] | None = None
    ) -> Reconstruction:
        """Decode the intercepts with the decoder that was trained beside the fleet."""
        return decode_intercepts(evidence, "sdar", self.options.capacity)


class SimulatorTraining(TrainingAttacker):
    """Simulator, decoder and two discriminators, a few updates per step of the fleet."""

    def __init__(self, options: SdarOptions, view: TrainingView, seed: int) -> None:
        super().__init__(view, options.capacity, seed, "sdar")
        self._options = options
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
        for name in (SIMULATOR, DECODER, FEATURE_JUDGE, IMAGE_JUDGE):
            self.train_with(name, options.learning_rate)

    def watch(
        self,
        features: Sequence[Tensor],
        targets: Sequence[Tensor],
        gradients: Sequence[Tensor],
        classify: Classify,
    ) -> None:
        """Learn from what the devices sent; what they get is left alone."""
        sent, labels = self.received(features, targets)
        scale = self.networks[SCALE]
        scale.update(sent)  # type: ignore[operator]
        rng = self.rng("batches", self.steps)
        self.steps += 1
        self.networks[SIMULATOR].train()
        for _ in range(self._options.updates_per_step):
            auxiliary = self.auxiliary_batch(self._options.batch_size, rng)
            chosen = torch.randperm(len(sent), generator=rng)[: self._options.batch_size]
            seen = sent[chosen], labels[chosen]
            made = self._update_simulator(auxiliary, seen, classify, rng)
            self._update_decoder(auxiliary, seen, made)

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
        (x, own), (sent, labels), options = auxiliary, seen, self._options
        judge, scale = self.networks[FEATURE_JUDGE], self.networks[SCALE]
        real = scale(sent)
        features: Tensor = self.networks[SIMULATOR](self.normalised(x))
        made = scale(features)
        loss = functional.cross_entropy(classify(features), own)
        if options.discrepancy_weight > 0.0:
            loss = loss + options.discrepancy_weight * discrepancy(made, real, rng)
        if options.feature_weight > 0.0:
            loss = loss + options.feature_weight * taken_for_real(judge(made, own)).mean()
        self.descend(SIMULATOR, loss)
        if options.feature_weight > 0.0:
            blame = told_apart(judge(real, labels), judge(made.detach(), own))
            self.descend(FEATURE_JUDGE, blame)
        return features.detach()

    def _update_decoder(
        self,
        auxiliary: tuple[Tensor, Tensor],
        seen: tuple[Tensor, Tensor],
        made: Tensor,
    ) -> None:
        """Fit the decoder to simulated features; what it makes of real ones must look real too."""
        (x, own), (sent, labels), weight = auxiliary, seen, self._options.image_weight
        judge = self.networks[IMAGE_JUDGE]
        loss = functional.mse_loss(self.decoded(made), x)
        if weight > 0.0:
            rebuilt = self.decoded(sent)
            loss = loss + weight * taken_for_real(judge(rebuilt, labels)).mean()
        self.descend(DECODER, loss)
        if weight > 0.0:
            self.descend(IMAGE_JUDGE, told_apart(judge(x, own), judge(rebuilt.detach(), labels)))
