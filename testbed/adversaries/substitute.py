"""Query-free inversion: a substitute front-end whose features look like the intercepted ones.

The attacker knows the architecture but neither weights nor answers to queries. It trains a
front-end of its own on auxiliary images until the distribution of its features cannot be told from
that of the intercepts, by the maximum mean discrepancy under several bandwidths and by a
discriminator. A decoder trained on the substitute then decodes the real thing. How well the two
distributions can be matched depends on how many features were intercepted.

References
----------
Xu et al., A stealthy wrongdoer: feature-oriented reconstruction attack against split learning
(FORA), CVPR 2024, section 4; He, Zhang, Lee, ACSAC 2019, section 6 (shadow models without queries);
Gretton et al., A kernel two-sample test, JMLR 13, 2012, eq. 3 (MMD).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from testbed.adversaries import augmentation
from testbed.adversaries.base import Evidence, FloatArray, LabelledImages, Reconstruction
from testbed.adversaries.discriminator import discriminator
from testbed.adversaries.mean_image import mean_of
from testbed.adversaries.released import ChannelNormaliser
from testbed.adversaries.residual_decoder import DecoderTraining, ResidualDecoderOptions
from testbed.core import seeds
from testbed.core.errors import UserError
from testbed.core.registries import ATTACKS, FRONT_ENDS
from testbed.core.registry import Options
from testbed.scenario.components import Component
from testbed.scenario.threat_model import ThreatModel

_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the median squared distance
_POSITIONS = 4  # feature vectors taken from every map, for the distribution across channels
_CHUNK = 64


class SubstituteOptions(Options):
    """Options of the query-free attack."""

    steps: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=300, description="steps of the alignment"
    )
    batch_size: Annotated[int, Field(ge=4)] = 24
    learning_rate: Annotated[float, Field(gt=0.0)] = 0.002
    adversarial_weight: Annotated[float, Field(ge=0.0)] = Field(
        default=0.1, description="of the discriminator beside the MMD"
    )
    discriminator_width: Annotated[int, Field(ge=4)] = 32
    decoder: ResidualDecoderOptions = ResidualDecoderOptions()


@ATTACKS.register(
    "substitute",
    "query-free: a substitute front-end aligned to the intercepts' distribution, then decoded",
    SubstituteOptions,
)
class Substitute:
    """Needs no access to any deployed front-end."""

    is_anchor = False
    rebuilds_images = True
    threat = ThreatModel(architecture=True, learns_from_intercepts=True)
    search_space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "steps": (150, 300, 1000),
        "learning_rate": (0.001, 0.002, 0.005),
        "adversarial_weight": (0.0, 0.1, 0.3),
    }

    def __init__(self, options: SubstituteOptions) -> None:
        self.options = options

    def mount(
        self, evidence: Evidence, seed: int, progress: Callable[[str], None] | None = None
    ) -> Reconstruction:
        """Align a substitute with the intercepts, train a decoder on it, decode the intercepts.

        Raises
        ------
        UserError : the architecture is not known.
        """
        if evidence.architecture is None:
            raise UserError(
                "attack 'substitute' needs the architecture of the front-end; its adversary is "
                "granted none"
            )
        sent = evidence.intercepts.features
        features = np.where(np.isfinite(sent), sent, np.float32(0.0))
        mean = mean_of(evidence.auxiliary)
        if len(features) < 2 or not ChannelNormaliser.fit(features).scale.any():
            return Reconstruction(
                _repeated(mean, features), again=lambda further: _repeated(mean, further)
            )
        alignment = Alignment(
            self.options, evidence.architecture, evidence.auxiliary, features, seed
        )
        distance = alignment.run()
        if progress is not None:
            progress(f"features aligned, MMD {distance:.4f}")
        own = replace(evidence, oracle=alignment, query_limit=None, replays=1)
        training = DecoderTraining(self.options.decoder, own, seed)
        training.run(progress)
        return training.account(training.reconstruct(features))


class Alignment:
    """A substitute front-end and its training; afterwards it answers queries like a front-end."""

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
        shape = auxiliary.images.shape[1:]
        draw = int(seeds.generator(seed, "substitute weights").integers(2**31))
        with torch.random.fork_rng(devices=[]):  # layers draw their weights from the global state
            torch.manual_seed(draw)
            self._front_end = FRONT_ENDS.create(
                architecture.name, architecture.options, image_shape=shape
            )
        if self._front_end.feature_shape != intercepted.shape[1:]:
            raise UserError(
                f"attack 'substitute': features of {architecture.name} are "
                f"{self._front_end.feature_shape}, but {intercepted.shape[1:]} was intercepted"
            )
        self._mean = torch.from_numpy(self._images.mean(axis=(0, 2, 3), keepdims=True))
        deviation = self._images.std(axis=(0, 2, 3), keepdims=True)
        self._std = torch.from_numpy(np.maximum(deviation, 1e-3))
        self._normalise = ChannelNormaliser.fit(intercepted)
        self._centre = torch.from_numpy(self._normalise.centre)
        self._scale = torch.from_numpy(self._normalise.scale)
        self._targets = torch.from_numpy(self._normalise(intercepted))
        self._discriminator = discriminator(
            intercepted.shape[1],
            options.discriminator_width,
            seeds.torch_generator(seed, "substitute discriminator"),
        )
        self._rng = seeds.torch_generator(seed, "substitute batches")

    def _features(self, x: Tensor) -> Tensor:
        features: Tensor = self._front_end((x - self._mean) / self._std)
        return features

    def run(self) -> float:
        """Train until the steps are used up; return the last discrepancy."""
        options = self._options
        own = torch.optim.Adam(self._front_end.parameters(), options.learning_rate)
        judge = torch.optim.Adam(self._discriminator.parameters(), options.learning_rate)
        self._front_end.train()
        distance = float("nan")
        for step in range(options.steps):
            images = self._batch_of_images(step)
            real = self._targets[self._pick(len(self._targets))]
            made = (self._features(images) - self._centre) * self._scale
            loss = discrepancy(made, real, self._rng)
            distance = float(loss.detach())
            if options.adversarial_weight > 0.0:
                fooled = functional.softplus(-self._discriminator(made)).mean()
                loss = loss + options.adversarial_weight * fooled
            own.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            own.step()
            if options.adversarial_weight > 0.0:
                said = self._discriminator(torch.cat([real, made.detach()]))
                ours, theirs = said[: len(real)], said[len(real) :]
                blame = functional.softplus(-ours).mean() + functional.softplus(theirs).mean()
                judge.zero_grad()
                blame.backward()  # type: ignore[no-untyped-call]
                judge.step()
            for group in own.param_groups:
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
        return torch.from_numpy(augmentation.vary(self._images[chosen], self._seed, step))

    @torch.no_grad()
    def query(self, images: FloatArray, draw: int) -> FloatArray:
        """Return the substitute's features of images in [0, 1]; ``draw`` changes nothing."""
        parts = [self._features(part) for part in torch.split(torch.tensor(images), _CHUNK)]
        features: FloatArray = torch.cat(parts).contiguous().numpy()
        return features


def _repeated(mean: FloatArray, features: FloatArray) -> FloatArray:
    return np.broadcast_to(mean, (len(features), *mean.shape)).copy()


def discrepancy(made: Tensor, real: Tensor, rng: torch.Generator) -> Tensor:
    """Return the MMD of whole feature maps plus that of feature vectors at a few positions."""
    cells = made.shape[2] * made.shape[3]
    chosen = torch.randperm(cells, generator=rng)[:_POSITIONS]
    total = mmd_squared(made.flatten(1), real.flatten(1))
    for position in chosen:
        total = total + mmd_squared(
            made.flatten(2)[:, :, position], real.flatten(2)[:, :, position]
        ) / len(chosen)
    return total


def mmd_squared(first: Tensor, second: Tensor) -> Tensor:
    """Return the biased MMD^2 of samples (N, d) and (M, d), averaged over Gaussian bandwidths.

    Bandwidths are multiples of the median squared distance between the samples.
    """
    both = torch.cat([first, second])
    distances = torch.cdist(both, both).square()
    with torch.no_grad():
        typical = distances[distances > 0].median() if (distances > 0).any() else torch.ones(())
    count = len(first)
    kernel = torch.stack([torch.exp(-distances / (typical * scale)) for scale in _BANDWIDTHS]).mean(
        0
    )
    within = kernel[:count, :count].mean() + kernel[count:, count:].mean()
    return within - 2.0 * kernel[:count, count:].mean()
