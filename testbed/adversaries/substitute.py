"""Query-free inversion: a substitute front-end whose features look like the intercepted ones.

The attacker knows the architecture, but has neither weights nor queries. It trains a shadow
front-end on auxiliary images until the distribution of its features matches that of the intercepts,
by the maximum mean discrepancy under several bandwidths and by a discriminator. A decoder trained
on the substitute then decodes the intercepts. The match improves with the number of intercepts.

References
----------
Xu et al., A stealthy wrongdoer: feature-oriented reconstruction attack against split learning
(FORA), CVPR 2024, section 4; He, Zhang, Lee, ACSAC 2019, section 6 (shadow models without queries);
Gretton et al., A kernel two-sample test, JMLR 13, 2012, eq. 3 (MMD).
"""

from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from testbed.adversaries import augmentation
from testbed.adversaries.base import (
    Attack,
    Evidence,
    FloatArray,
    LabelledImages,
    Reconstruction,
    Report,
)
from testbed.adversaries.decoder_network import update
from testbed.adversaries.effort import Effort, Sizes
from testbed.adversaries.mean_image import mean_of, repeated
from testbed.adversaries.released import ChannelNormaliser
from testbed.adversaries.residual_decoder import (
    DecoderTraining,
    ResidualDecoderOptions,
    decoder_bytes,
    decoder_effort,
)
from testbed.adversaries.shadow_front_end import (
    ShadowFrontEnd,
    discrepancy,
    discriminator,
    told_apart,
)
from testbed.core import seeds
from testbed.core.compute import on_device
from testbed.core.errors import UserError
from testbed.core.registries import ATTACKS
from testbed.core.registry import NonNegative, Options, Positive
from testbed.scenario.components import Component
from testbed.scenario.threat_model import ThreatModel

_CHUNK = 64


class SubstituteOptions(Options):
    """Options of the query-free attack."""

    steps: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=300, description="steps of the alignment"
    )
    batch_size: Annotated[int, Field(ge=4)] = 24
    learning_rate: Positive = 0.002
    adversarial_weight: NonNegative = Field(
        default=0.1, description="of the discriminator beside the MMD"
    )
    discriminator_width: Annotated[int, Field(ge=4)] = 32
    decoder: ResidualDecoderOptions = ResidualDecoderOptions()


@ATTACKS.register(
    "substitute",
    "query-free: a substitute front-end aligned to the intercepts' distribution, then decoded",
    SubstituteOptions,
)
class Substitute(Attack):
    """Needs no access to a deployed front-end."""

    options: SubstituteOptions
    threat = ThreatModel(architecture=True, learns_from_intercepts=True)
    search_space: ClassVar = {
        "steps": (150, 300, 1000),
        "learning_rate": (0.001, 0.002, 0.005),
        "adversarial_weight": (0.0, 0.1, 0.3),
    }

    def mount(self, evidence: Evidence, seed: int, report: Report) -> Reconstruction:
        """Align a substitute with the intercepts, train a decoder on it, decode the intercepts.

        Raises
        ------
        UserError : the architecture is not granted.
        """
        if evidence.architecture is None:
            raise UserError(
                "attack 'substitute' needs the architecture of the front-end, which its adversary "
                "is not granted"
            )
        sent = evidence.intercepts.features
        features = np.where(np.isfinite(sent), sent, np.float32(0.0))
        mean = mean_of(evidence.auxiliary)
        if len(features) < 2 or not ChannelNormaliser.fit(features).scale.any():
            return Reconstruction(
                repeated(mean, len(features)), again=lambda further: repeated(mean, len(further))
            )
        alignment = Alignment(
            self.options, evidence.architecture, evidence.auxiliary, features, seed
        )
        distance = alignment.run()
        report(f"features aligned, MMD {distance:.4f}")
        on_substitute = replace(evidence, oracle=alignment, query_limit=None, replays=1)
        training = DecoderTraining(self.options.decoder, on_substitute, seed)
        training.run(report)
        account = training.account(training.reconstruct(features))
        # Its decoder was validated on features of the substitute, not of the front-end.
        return replace(account, validation_mse=None)

    def memory_bytes(self, sizes: Sizes) -> int:
        """Return the bytes of the features and the images that a decoder is trained on."""
        return decoder_bytes(sizes)

    def effort(self, evidence: Evidence, intercepts: int) -> list[Effort] | None:
        """Return the steps of the alignment and of the decoder."""
        if evidence.architecture is None:
            return None
        size = self.options.batch_size
        features = evidence.intercepts.features
        alignment = Alignment(
            self.options.model_copy(update={"steps": 1}),
            evidence.architecture,
            evidence.auxiliary.first(size),
            np.resize(features, (min(size, intercepts), *features.shape[1:])),
            seed=0,
        )
        aligned = Effort(
            self.options.steps,
            f"step of an alignment, batch {size}, {intercepts < size}",
            alignment.run,
            of_arm=True,
        )
        on_substitute = replace(evidence, oracle=alignment, query_limit=None, replays=1)
        return [aligned, *decoder_effort(self.options.decoder, on_substitute, intercepts)]


class Alignment:
    """A substitute front-end and its training; afterwards it can be queried."""

    def __init__(
        self,
        options: SubstituteOptions,
        architecture: Component,
        auxiliary: LabelledImages,
        intercepted: FloatArray,
        seed: int,
    ) -> None:
        self._options = options
        self._images = auxiliary.images
        self._seed = seed
        self._front_end = ShadowFrontEnd(architecture, auxiliary.images, seed, "substitute weights")
        if self._front_end.feature_shape != intercepted.shape[1:]:
            raise UserError(
                f"attack 'substitute': {architecture.name} has features of shape "
                f"{self._front_end.feature_shape}, the intercepts are {intercepted.shape[1:]}"
            )
        self._normalise = ChannelNormaliser.fit(intercepted)
        self._centre = on_device(self._normalise.centre)
        self._scale = on_device(self._normalise.scale)
        self._targets = on_device(self._normalise(intercepted))
        self._discriminator = discriminator(
            intercepted.shape[1],
            options.discriminator_width,
            seeds.torch_generator(seed, "substitute discriminator"),
        )
        self._rng = seeds.torch_generator(seed, "substitute batches")

    def run(self) -> float:
        """Train for the given steps; return the last discrepancy."""
        options = self._options
        optimiser = torch.optim.Adam(self._front_end.parameters(), options.learning_rate)
        judge = torch.optim.Adam(self._discriminator.parameters(), options.learning_rate)
        self._front_end.train()
        distance = float("nan")
        for step in range(options.steps):
            images = self._batch_of_images(step)
            real = self._targets[self._pick(len(self._targets))]
            fake = (self._front_end(images) - self._centre) * self._scale
            loss = discrepancy(fake, real, self._rng)
            distance = float(loss.detach())
            if options.adversarial_weight > 0.0:
                fooled = functional.softplus(-self._discriminator(fake)).mean()
                loss = loss + options.adversarial_weight * fooled
            update(optimiser, loss)
            if options.adversarial_weight > 0.0:
                logits = self._discriminator(torch.cat([real, fake.detach()]))
                update(judge, told_apart(logits[: len(real)], logits[len(real) :]))
            for group in optimiser.param_groups:
                group["lr"] = (
                    options.learning_rate * 0.5 * (1 + np.cos(np.pi * step / options.steps))
                )
        self._front_end.eval()
        return distance

    def _pick(self, count: int) -> Tensor:
        size = min(self._options.batch_size, count)
        return torch.randperm(count, generator=self._rng)[:size]

    def _batch_of_images(self, step: int) -> Tensor:
        chosen = self._pick(len(self._images)).numpy()
        return on_device(augmentation.vary(self._images[chosen], self._seed, step))

    @torch.no_grad()
    def query(self, images: FloatArray, draw: int) -> FloatArray:
        """Return the substitute's features of images in [0, 1]; ``draw`` has no effect."""
        parts = [
            self._front_end(on_device(part)).cpu()
            for part in torch.split(torch.tensor(images), _CHUNK)
        ]
        features: FloatArray = torch.cat(parts).contiguous().numpy()
        return features
