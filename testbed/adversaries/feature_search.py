"""Search for images with given features, by projected Adam through known weights."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from testbed.adversaries import augmentation
from testbed.adversaries.averaged_decoder import AveragedTraining
from testbed.adversaries.base import (
    Attack,
    Evidence,
    FloatArray,
    Reconstruction,
    Report,
    WhiteBoxOracle,
)
from testbed.adversaries.effort import Effort, Sizes
from testbed.adversaries.kernel_ridge import KernelInverses, KernelRidge
from testbed.adversaries.mean_image import mean_of, repeated
from testbed.adversaries.released import ChannelNormaliser, ReleasedFeatures, granted_weights
from testbed.adversaries.residual_decoder import (
    DecoderTraining,
    decoder_effort,
)
from testbed.core.compute import as_array, on_device
from testbed.core.registries import ATTACKS
from testbed.core.registry import Options
from testbed.scenario.threat_model import ThreatModel

Start = Literal["best", "decoder", "kernel_ridge", "mean_image"]
"""First images of a search: those of a trained decoder, of the closed form, or the better of both
on the attacker's validation images."""
Reconstruct = Callable[[FloatArray], FloatArray]
"""From features (N, C', H', W') to images (N, C, H, W)."""

_PIXELS = 32 * 32 * 32  # of the images searched together; they and their activations fit the cache
_FIRST_DRAW = 1_000_000  # beyond the draws of training queries
_HELD_OUT_DRAW = 100_000  # of variations of the validation images, beyond those of training
_DISTANCE_DRAWS = 8
_ACTIVATIONS = 30
"""About what the front-end keeps for the gradient, in numbers per number of features and pixels."""


def total_variation(x: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels of each image, (N,)."""
    rows = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(dim=(1, 2, 3))
    columns = (x[:, :, :, 1:] - x[:, :, :, :-1]).abs().mean(dim=(1, 2, 3))
    return rows + columns


class FeatureDistance:
    """Mean squared distance of normalised features, one value per image.

    Parameters
    ----------
    oracle : the deployed front-end, with gradients.
    normalise : statistics of the auxiliary features; dead channels weigh nothing.
    is_random : whether releases differ between draws; every step then uses a new one.
    """

    def __init__(
        self, oracle: WhiteBoxOracle, normalise: ChannelNormaliser, is_random: bool
    ) -> None:
        self._oracle = oracle
        self._normalise = normalise
        self._centre = on_device(normalise.centre)
        self._scale = on_device(normalise.scale)
        self._is_random = is_random

    @property
    def is_flat(self) -> bool:
        """Whether every channel is dead: the features carry no information."""
        return not self._normalise.scale.any()

    def target(self, features: FloatArray) -> Tensor:
        """Normalise intercepted features."""
        return on_device(self._normalise(features))

    def __call__(self, x: Tensor, target: Tensor, step: int) -> Tensor:
        """Return the distances (N,) of images ``x`` at a step; differentiable."""
        draw = _FIRST_DRAW + (step if self._is_random else 0)
        features = self._oracle.differentiable_query(x, draw)
        return ((features - self._centre) * self._scale - target).square().mean(dim=(1, 2, 3))

    @torch.no_grad()
    def expected(self, images: FloatArray, features: FloatArray) -> FloatArray:
        """Return distances (N,) averaged over a few draws, to choose between restarts."""
        draws = range(_DISTANCE_DRAWS if self._is_random else 1)
        values = np.empty(len(images), dtype=np.float32)
        for part in chunks(images):
            x, target = on_device(images[part]), self.target(features[part])
            distances = [self(x, target, -1 - draw) for draw in draws]
            values[part] = as_array(torch.stack(distances).mean(dim=0))
        return values


def together(images: FloatArray) -> int:
    """Return how many of such images (N, C, H, W) are searched together."""
    height, width = images.shape[2:]
    count: int = max(1, _PIXELS // (height * width))
    return count


def chunks(images: FloatArray) -> Iterator[slice]:
    """Yield the slices of images that are searched together."""
    size = together(images)
    for start in range(0, len(images), size):
        yield slice(start, min(start + size, len(images)))


def adam(x: Tensor, learning_rate: float, memory: float = 0.99) -> torch.optim.Optimizer:
    """Return the optimiser of a search's images; ``memory`` is of the squared gradients."""
    return torch.optim.Adam([x], learning_rate, betas=(0.9, memory), eps=1e-12, fused=True)


@dataclass(frozen=True)
class Descent:
    """Projected Adam with a cosine-decayed rate.

    Attributes
    ----------
    steps : length of the decay.
    learning_rate : of the first step, in units of the pixels' range.
    """

    steps: int
    learning_rate: float

    def run(
        self,
        distance: FeatureDistance,
        start: FloatArray,
        features: FloatArray,
        tv_weight: float,
        stops: list[int],
    ) -> list[FloatArray]:
        """Return the images at each of the ``stops``, ascending step numbers (0 is the start)."""
        images = [np.empty_like(start) for _ in stops]
        for part in chunks(start):
            target = distance.target(features[part])
            x = on_device(start[part].copy()).requires_grad_()
            optimiser = adam(x, self.learning_rate)
            for step in range(max(stops) + 1):
                if step in stops:
                    images[stops.index(step)][part] = as_array(x)
                if step == max(stops):
                    break
                # A sum over images: the gradient of one does not depend on its chunk.
                loss = distance(x, target, step).sum()
                if tv_weight > 0.0:
                    loss = loss + tv_weight * total_variation(x).sum()
                (x.grad,) = torch.autograd.grad(loss, x)
                for group in optimiser.param_groups:
                    decay = 0.5 * (1.0 + np.cos(np.pi * step / self.steps))
                    group["lr"] = self.learning_rate * decay
                optimiser.step()
                with torch.no_grad():
                    x.clamp_(0.0, 1.0)
        return images


class FeatureSearch(Attack):
    """Base of attacks that search for images through the known weights.

    Options have ``start`` (see ``Start``), ``decoder``, ``averaged_decoder`` and ``kernel_ridge``.

    Attributes
    ----------
    name : under which the attack is registered.
    """

    name: ClassVar[str]
    threat = ThreatModel(weights=True, queries=True)

    def mount(self, evidence: Evidence, seed: int, report: Report) -> Reconstruction:
        """Make a start, tune on the attacker's validation images, search every victim's image.

        Raises
        ------
        UserError : the adversary is granted queries only.
        """
        oracle = granted_weights(evidence, self.name)
        released = ReleasedFeatures(evidence)
        normalise = ChannelNormaliser.fit(released.training(0))
        distance = FeatureDistance(oracle, normalise, released.is_random)
        options, features = self.options, evidence.intercepts.features
        starts, account = first_starts(options, evidence, released, seed, report)
        assert account.validation_mse is not None
        reconstruct, ratio = starts[0], 1.0
        if not distance.is_flat and len(features):
            search = Search(evidence, seed, released, distance, starts, report)
            reconstruct, ratio = self.tuned(search)
        return replace(
            account,
            images=reconstruct(features),
            again=reconstruct,
            validation_mse=ratio * account.validation_mse,
        )

    def tuned(self, search: "Search") -> tuple[Reconstruct, float]:
        """Return the search, tuned on validation images, and its error relative to the start's.

        The ratio is that on the images of tuning.
        """
        raise NotImplementedError

    def builds_on(self) -> Mapping[str, Options]:
        """Return the attacks that may give the start, which is kept where no search is better."""
        found: dict[str, Options] = {}
        if self.options.start in ("best", "decoder"):
            found["residual_decoder"] = self.options.decoder
        if self.options.start == "best" and self.options.averaged_decoder is not None:
            found["averaged_decoder"] = self.options.averaged_decoder
        if self.options.start in ("best", "kernel_ridge"):
            closed = KernelRidge(self.options.kernel_ridge)
            found |= {"kernel_ridge": closed.options, **closed.builds_on()}
        return found

    def memory_bytes(self, sizes: Sizes) -> int:
        """Return the bytes of the starts, and of the images that are searched together."""
        released = 4 * sizes.features * (sizes.auxiliary + sizes.validation + 2 * sizes.intercepts)
        starts = [
            ATTACKS.create(name, options.model_dump()).memory_bytes(sizes) or 0
            for name, options in self.builds_on().items()
            if name != "ridge"  # which kernel_ridge counts
        ]
        searched = max(1, _PIXELS // sizes.pixels) * (sizes.features + sizes.pixels)
        return released + sum(starts) + 4 * _ACTIVATIONS * searched

    def effort(self, evidence: Evidence, intercepts: int) -> list[Effort]:
        """Return the steps of the start and of the search."""
        oracle, options = granted_weights(evidence, self.name), self.options
        few = replace(
            evidence,
            auxiliary=evidence.auxiliary.first(together(evidence.auxiliary.images)),
            auxiliary_validation=evidence.auxiliary_validation.first(1),
        )
        released = ReleasedFeatures(few)
        features = released.training(0)
        normalise = ChannelNormaliser.fit(features)
        distance = FeatureDistance(oracle, normalise, released.is_random)
        images = few.auxiliary.images
        found = [ReleasedFeatures(evidence).effort(1)]
        if options.start in ("best", "decoder"):
            found += decoder_effort(options.decoder, evidence, intercepts)
        averaged = options.averaged_decoder
        if options.start == "best" and averaged is not None:
            found += decoder_effort(averaged, evidence, intercepts, AveragedTraining)
        if options.start in ("best", "kernel_ridge"):
            found += KernelRidge(options.kernel_ridge).effort(evidence, intercepts)
        tuning = self.tuning(len(evidence.auxiliary_validation.images))
        steps = self.steps(math.ceil(tuning / len(images)), math.ceil(intercepts / len(images)))
        descent = Descent(1, 0.1)
        search = Effort(
            steps,
            f"step of a search of {len(images)} images",
            lambda: descent.run(distance, images, features, 0.1, [1]),
            of_arm=True,
        )
        return [*found, search]

    def tuning(self, validation: int) -> int:
        """Return how many of the validation images the search is tuned on."""
        most: int = self.options.tuning_images
        return min(most, validation)

    def steps(self, tuning: int, intercepted: int) -> float:
        """Return the expected steps for numbers of chunks of images."""
        raise NotImplementedError


@dataclass(frozen=True)
class Search:
    """The set-up of a search.

    Attributes
    ----------
    starts : the best start by the error on validation images, then others.
    """

    evidence: Evidence
    seed: int
    released: ReleasedFeatures
    distance: FeatureDistance
    starts: Sequence[Reconstruct]
    report: Report

    def start(self, features: FloatArray) -> FloatArray:
        """Return the images of the best start."""
        return self.starts[0](features)

    def held_out(self, variations: int) -> tuple[FloatArray, FloatArray]:
        """Return validation images with variations of each, and their features.

        The images come first, then one variation of each in the same order, and so on.
        """
        images = [self.released.auxiliary_validation.images]
        features = [self.released.validation()]
        for number in range(_HELD_OUT_DRAW, _HELD_OUT_DRAW + variations):
            varied = augmentation.vary(images[0], self.seed, number, augmentation.NEAR)
            images.append(varied)
            features.append(self.released.release(varied, number))
        return np.concatenate(images), np.concatenate(features)

    def best_choice(
        self,
        count: int,
        weights: Sequence[float],
        stops: Sequence[int],
        run: Callable[[FloatArray, float], list[FloatArray]],
    ) -> "Choice":
        """Return the weight of the prior and the stop with the least validation error.

        Parameters
        ----------
        count : number of validation images.
        run : returns the images at each of the stops, from their features and a weight.
        """
        truth = self.released.auxiliary_validation.images[:count]
        features = self.released.validation()[:count]
        choices = [
            (float(np.square(images - truth, dtype=np.float64).mean()), stop, weight)
            for weight in weights
            for stop, images in zip(stops, run(features, weight), strict=True)
        ]
        error, stop, weight = min(choices)
        first = float(np.square(self.start(features) - truth, dtype=np.float64).mean())
        return Choice(weight, stop, error / first if first > 0.0 else 1.0)


class Choice(NamedTuple):
    """What tuning chose.

    Attributes
    ----------
    ratio : of the error to that of the best start, on the images of tuning.
    """

    weight: float
    stop: int
    ratio: float


def _decoders(options: Any, evidence: Evidence, seed: int) -> Iterator[DecoderTraining]:
    """Yield the trainings of the decoders that a search may start from."""
    if options.start in ("best", "decoder"):
        yield DecoderTraining(options.decoder, evidence, seed)
    if options.start == "best" and options.averaged_decoder is not None:
        yield AveragedTraining(options.averaged_decoder, evidence, seed)


def starts_of(options: Any) -> int:
    """Return how many starts a search has: ``first_starts``, where variations help."""
    fits = options.kernel_ridge.fits
    inverses = 1 + fits if fits > 1 else 1
    decoders = 1 if options.averaged_decoder is None else 2
    counts = {"best": decoders + inverses, "kernel_ridge": inverses, "decoder": 1, "mean_image": 1}
    return counts[options.start]


def first_starts(
    options: Any, evidence: Evidence, released: ReleasedFeatures, seed: int, report: Report
) -> tuple[list[Reconstruct], Reconstruction]:
    """Return maps from features to starting images, and the record with the best one's error.

    The best of each kind come first, from best to worst. Then follow the inverses that the closed
    form is the mean of.

    Parameters
    ----------
    options : of the search, with ``start`` and those of the starts.
    """
    mean = mean_of(evidence.auxiliary)
    account = Reconstruction(mean[None])
    found: list[Reconstruct] = []
    further: list[Reconstruct] = []
    for training in _decoders(options, evidence, seed):
        training.run(report)
        account = training.account(mean[None])
        found.append(training.reconstruct)
    if options.start in ("best", "kernel_ridge"):
        inverses = KernelInverses(options.kernel_ridge, released, seed, report)
        found.append(inverses)
        further = inverses.each if len(inverses.each) > 1 else []
    if not found:
        found.append(lambda features: repeated(mean, len(features)))
    errors = [released.error_of(start(released.validation())) for start in found]
    best_first = [found[place] for place in np.argsort(errors, kind="stable")]
    return [*best_first, *further], replace(account, validation_mse=min(errors))
