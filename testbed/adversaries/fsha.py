"""Malicious cloud: steers the devices' front-end into a feature space that it can decode.

Before the first round the cloud trains a pilot autoencoder on its auxiliary images: a front-end of
its own with a decoder. In training it returns, in place of the task's gradients, those of a
discriminator that tells devices' features from the pilot's of the same class. The devices' updates
thus make their front-end imitate the pilot, and the pilot's decoder decodes what they send. The
task is given up; gradients are scaled to the norm of the honest ones, so that their size does not
give the cloud away. Their direction may: see ``testbed.engine.training.attackers``.

References
----------
Pasquini, Ateniese, Bernaschi, Unleashing the tiger: inference attacks on split learning (FSHA),
arXiv 2012.02670, CCS 2021, section 4, equations 1 to 3. There the pilot is trained along and the
discriminator knows no classes; here they help trainings of tens of rounds, not thousands, as does
the gradient of the maximum mean discrepancy (see ``substitute``) beside the discriminator's.
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

PILOT, CRITIC = "pilot", "critic"


class FshaOptions(Options):
    """Options of the malicious cloud."""

    capacity: Literal["small", "medium", "large"] = "small"
    pilot_steps: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=300, description="steps of the pilot autoencoder, before the first round"
    )
    updates_per_step: Annotated[int, Field(ge=1, le=100)] = Field(
        default=4, description="updates of the discriminator per training step of the fleet"
    )
    batch_size: Annotated[int, Field(ge=4)] = 24
    learning_rate: Annotated[float, Field(gt=0.0)] = 0.002
    discrepancy_weight: Annotated[float, Field(ge=0.0)] = Field(
        default=10.0, description="of the MMD from the pilot's features, beside the discriminator"
    )
    strength: Annotated[float, Field(gt=0.0)] = Field(
        default=1.0, description="norm of the gradients sent, in those of the honest ones"
    )
    discriminator_width: Annotated[int, Field(ge=4)] = 32


@ATTACKS.register(
    "fsha",
    "at the cloud in training, malicious: steers the front-end into a space it can decode",
    FshaOptions,
    source="arXiv 2012.02670",
)
class Fsha:
    """Hijacks the split-federated training of an arm (``arms.<n>.hijacked_by``)."""

    is_anchor = False
    rebuilds_images = True
    threat = ThreatModel(
        labels=True, architecture=True, watches_training=True, steers_training=True
    )
    search_space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "updates_per_step": (2, 8, 20),
        "strength": (1.0, 3.0),
    }

    def __init__(self, options: FshaOptions) -> None:
        self.options = options

    def training_attacker(self, view: TrainingView, seed: int) -> TrainingAttacker:
        """Return what accompanies the training of one tier."""
        return Hijacking(self.options, view, seed)

    def mount(
        self, evidence: Evidence, seed: int, progress: Callable[[str], None] | None = None
    ) -> Reconstruction:
        """Decode the intercepts with the pilot's decoder."""
        return decode_intercepts(evidence, "fsha", self.options.capacity)


class Hijacking(TrainingAttacker):
    """Pilot autoencoder and discriminator."""

    def __init__(self, options: FshaOptions, view: TrainingView, seed: int) -> None:
        super().__init__(view, options.capacity, seed, "fsha")
        self._options = options
        self.add_front_end(PILOT)
        self.networks[CRITIC] = ClassDiscriminator(
            view.feature_shape[0],
            view.num_classes,
            options.discriminator_width,
            self.rng("discriminator"),
        )
        for name in (PILOT, DECODER, CRITIC):
            self.train_with(name, options.learning_rate)

    def watch(
        self,
        features: Sequence[Tensor],
        targets: Sequence[Tensor],
        gradients: Sequence[Tensor],
        classify: Classify,
    ) -> list[Tensor]:
        """Sharpen the discriminator, and return its gradients in place of the task's."""
        if self.steps == 0:
            self._train_pilot()
        self.networks[PILOT].eval()  # here, since a training that goes on does not come from there
        sent, labels = self.received(features, targets)
        rng = self.rng("batches", self.steps)
        self.steps += 1
        scale, critic = self.networks[SCALE], self.networks[CRITIC]
        theirs = scale(sent)
        for _ in range(self._options.updates_per_step):
            x, own = self.auxiliary_batch(self._options.batch_size, rng)
            with torch.no_grad():
                pilot = scale(self.networks[PILOT](self.normalised(x)))
            chosen = torch.randperm(len(theirs), generator=rng)[: self._options.batch_size]
            blame = told_apart(critic(pilot, own), critic(theirs[chosen], labels[chosen]))
            self.descend(CRITIC, blame)
        steered = sent.clone().requires_grad_()
        seen = scale(steered)
        loss = taken_for_real(critic(seen, labels)).mean()
        if self._options.discrepancy_weight > 0.0:
            loss = loss + self._options.discrepancy_weight * discrepancy(seen, pilot, rng)
        (pull,) = torch.autograd.grad(loss, steered)
        parts = torch.split(pull, [len(z) for z in features])
        return [
            _of_norm(part, self._options.strength * honest.norm())
            for part, honest in zip(parts, gradients, strict=True)
        ]

    def _train_pilot(self) -> None:
        """Train front-end and decoder to rebuild the auxiliary images, and leave them at that."""
        pilot, scale = self.networks[PILOT], self.networks[SCALE]
        rng = self.rng("pilot batches")
        pilot.train()
        for _ in range(self._options.pilot_steps):
            x, _ = self.auxiliary_batch(self._options.batch_size, rng)
            features = pilot(self.normalised(x))
            scale.update(features)  # type: ignore[operator]
            loss = functional.mse_loss(self.decoded(features), x)
            self.descend(PILOT, loss, retain_graph=True)
            self.descend(DECODER, loss)


def _of_norm(gradient: Tensor, norm: Tensor) -> Tensor:
    """Return the gradient with another norm; zero stays zero."""
    scaled: Tensor = gradient * (norm / gradient.norm().clamp_min(1e-12))
    return scaled
