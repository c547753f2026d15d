"""White-box optimisation: search for the image with the intercepted features.

Minimises |(f(x) - z) / s|^2 per element plus a prior by Adam, with the auxiliary deviation s of
each channel, so that the balance does not depend on the scale of z. It starts from the best
inverses that queries give. By default the prior is Gaussian around the start, with the covariance
of what that start misses on held-out images: the search is one for the maximum a posteriori, in the
prior's coordinates. Searches from several starts err differently; their mean counts. The prior's
weight, the number of steps and that of starts are tuned on the attacker's validation images. Zero
steps are among the choices: if a search would only fit the noise of a release, the start is kept. A
random release is drawn anew at every step (expectation over the release).

With total variation as the prior, the search is in pixels, and restarts are compared by feature
distance only, since an attacker of real victims can compute nothing else.

References
----------
He, Zhang, Lee, Model inversion attacks against collaborative inference, ACSAC 2019, section 4
(regularised maximum likelihood, there by plain gradient descent).
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from testbed.adversaries.averaged_decoder import AveragedDecoderOptions
from testbed.adversaries.base import FloatArray
from testbed.adversaries.effort import Sizes
from testbed.adversaries.feature_search import (
    Descent,
    FeatureDistance,
    FeatureSearch,
    Reconstruct,
    Search,
    Start,
    adam,
    chunks,
    starts_of,
)
from testbed.adversaries.kernel_ridge import KernelRidge, KernelRidgeOptions
from testbed.adversaries.mean_image import mean_of, repeated
from testbed.adversaries.residual_decoder import ResidualDecoder, ResidualDecoderOptions
from testbed.core import seeds
from testbed.core.compute import as_array, on_device
from testbed.core.registries import ATTACKS
from testbed.core.registry import NonNegative, Options, Positive

_VARIATIONS = 4  # of each validation image, for the covariance of the start's errors
_MOST_RESIDUALS = 1000  # an eigendecomposition is cubic in them
_RATE = 0.15  # of the first step in a prior's coordinates, in its standard deviations
_MEMORY = 0.9  # of the squared gradients there: kinks of ReLU change them quickly


class WhiteBoxOptions(Options):
    """Options of the white-box attack."""

    start: Start = Field(
        default="best",
        description="first start of the search: a trained decoder, the closed form `kernel_ridge`, "
        "the better of both on the validation images, or the mean image",
    )
    decoder: ResidualDecoderOptions = ResidualDecoderOptions()
    averaged_decoder: AveragedDecoderOptions | None = Field(
        default=None, description="with `start: best`, train this slower decoder as well"
    )
    kernel_ridge: KernelRidgeOptions = KernelRidgeOptions()
    steps: Annotated[int, Field(ge=8, le=100_000)] = 160
    learning_rate: Positive = Field(
        default=0.1,
        description="of Adam under total variation, in units of the pixels' range, decayed to zero "
        "along a cosine",
    )
    prior: Literal["residuals", "total_variation"] = Field(
        default="residuals",
        description="residuals: Gaussian, with the covariance of the start's errors on held-out "
        "images; total_variation: of the image",
    )
    prior_weights: list[NonNegative] = Field(
        default=[0.01, 0.03, 0.1, 0.3],
        min_length=1,
        description="weights of the prior of residuals tried in tuning, in units of the start's "
        "feature distance",
    )
    directions: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=128, description="most principal directions of the residuals that are searched"
    )
    tv_weights: list[NonNegative] = Field(
        default=[0.0, 0.03, 0.1],
        min_length=1,
        description="weights of the total variation tried in tuning",
    )
    tuning_images: Annotated[int, Field(ge=1)] = 24
    restarts: Annotated[int, Field(ge=1, le=64)] = Field(
        default=3,
        description="most searches per victim. Prior of residuals: from the best starts (each "
        "inverse of `kernel_ridge` is one); the mean of as many as validation says counts. Total "
        "variation: from the best start, the mean image, then auxiliary images at random; that "
        "with the least feature distance counts",
    )


@dataclass(frozen=True)
class ResidualPrior:
    """Gaussian prior of what a start misses.

    Attributes
    ----------
    axes : principal directions of the start's errors on held-out images, each as long as their
        standard deviation along it, (count, C, H, W).
    """

    axes: FloatArray

    @classmethod
    def of(cls, missed: FloatArray, most: int) -> "ResidualPrior":
        """Learn at most that many directions from a start's errors on held-out images."""
        residuals = missed.reshape(len(missed), -1).astype(np.float64) / math.sqrt(len(missed))
        _, vectors = np.linalg.eigh(residuals @ residuals.T)  # fewer images than pixels, mostly
        axes = vectors[:, ::-1][:, : min(most, *residuals.shape)].T @ residuals
        return cls(axes.astype(np.float32).reshape(-1, *missed.shape[1:]))


@dataclass(frozen=True)
class Ascent:
    """Adam on the coordinates of a prior, with a cosine-decayed rate, to the most probable image.

    Attributes
    ----------
    steps : length of the decay.
    """

    steps: int
    prior: ResidualPrior

    def run(
        self,
        distance: FeatureDistance,
        start: FloatArray,
        features: FloatArray,
        weight: float,
        stops: list[int],
    ) -> list[FloatArray]:
        """Return the images at each of the ``stops``, ascending step numbers.

        Parameters
        ----------
        start : the prior's mean, (N, C, H, W).
        weight : of the mean square of the coordinates, against the feature distance.
        """
        images = [np.empty_like(start) for _ in stops]
        axes = on_device(self.prior.axes.copy()).flatten(1)
        for part in chunks(start):
            target, centre = distance.target(features[part]), on_device(start[part].copy())
            u = on_device(torch.zeros(len(centre), len(axes))).requires_grad_()

            def image(u: Tensor = u, centre: Tensor = centre) -> Tensor:
                return (centre + (u @ axes).view_as(centre)).clamp(0.0, 1.0)

            optimiser = adam(u, _RATE, _MEMORY)
            for step in range(max(stops) + 1):
                if step in stops:
                    images[stops.index(step)][part] = as_array(image().detach())
                if step == max(stops):
                    break
                # Sums over images: the gradient of one does not depend on its chunk.
                far = distance(image(), target, step).sum()
                (u.grad,) = torch.autograd.grad(far + weight * u.square().mean(dim=1).sum(), u)
                for group in optimiser.param_groups:
                    decay = 0.5 * (1.0 + np.cos(np.pi * step / self.steps))
                    group["lr"] = _RATE * decay
                optimiser.step()
        return images


@ATTACKS.register(
    "white_box",
    "searches for images through the known weights: feature distance + prior, from the best start",
    WhiteBoxOptions,
)
class WhiteBox(FeatureSearch):
    """Regularised maximum-likelihood inversion."""

    name = "white_box"
    options: WhiteBoxOptions
    search_space: ClassVar = {
        "steps": (120, 240, 480),
        "learning_rate": (0.03, 0.1, 0.3),
        "restarts": (1, 2),
    }
    presets: ClassVar = {
        "fast": {
            "steps": 80,
            "restarts": 1,
            "prior_weights": [0.01, 0.1],
            "decoder": ResidualDecoder.presets["fast"],
            "kernel_ridge": KernelRidge.presets["fast"],
        },
        "thorough": {
            "steps": 400,
            "restarts": 5,
            "averaged_decoder": {},
            "decoder": ResidualDecoder.presets["thorough"],
            "kernel_ridge": KernelRidge.presets["thorough"],
        },
    }

    def tuned(self, search: Search) -> tuple[Reconstruct, float]:
        """Return the search with the best prior and number of steps, from one start or several."""
        if self.options.prior == "residuals":
            return self._most_probable(search)
        descent = Descent(self.options.steps, self.options.learning_rate)
        stops = [0, *(self.options.steps // part for part in (8, 4, 2, 1))]

        def ends(features: FloatArray, weight: float) -> list[FloatArray]:
            return descent.run(search.distance, search.start(features), features, weight, stops)

        weights, count = self.options.tv_weights, self.options.tuning_images
        tv_weight, stop, ratio = search.best_choice(count, weights, stops, ends)
        search.report(f"searching {stop} steps with total variation x {tv_weight:g}")

        def reconstruct(features: FloatArray) -> FloatArray:
            starts = [search.start(features)]
            if stop:
                starts += self._further_starts(search, len(features))
            candidates = [
                descent.run(search.distance, start, features, tv_weight, [stop])[0]
                for start in starts
            ]
            distances = [search.distance.expected(images, features) for images in candidates]
            nearest = np.argmin(distances, axis=0)
            images: FloatArray = np.stack(candidates)[nearest, np.arange(len(features))]
            return images

        return reconstruct, ratio

    def _most_probable(self, search: Search) -> tuple[Reconstruct, float]:
        options = self.options
        starts = search.starts[: options.restarts]
        own = len(search.released.auxiliary_validation.images)
        held_out, shown = search.held_out(min(_VARIATIONS, max(0, _MOST_RESIDUALS // own - 1)))
        missed = [held_out - start(shown) for start in starts]
        apart = float(search.distance.expected(search.start(shown), shown).mean())
        # A prior that knew the errors on the images of tuning would seem too good on them.
        count = self.tuning(own)
        others = np.arange(len(held_out)) % own >= min(count, own - 1)
        searches = [self._ascent(errors[others]) for errors in missed]
        target = shown[:count]
        stops = [0, *(options.steps // part for part in (8, 4, 2, 1))]

        def ends(number: int, weight: float) -> list[FloatArray]:
            first = starts[number](target)
            run = searches[number].run
            return run(search.distance, first, target, weight * apart, stops)

        weight, *_ = search.best_choice(
            count, options.prior_weights, stops, lambda _, weight: ends(0, weight)
        )
        means = [
            list(_means(images))
            for images in zip(*(ends(number, weight) for number in range(len(starts))), strict=True)
        ]
        used, stop, ratio = search.best_choice(
            count,
            range(1, len(starts) + 1),
            stops,
            lambda _, used: [images[int(used) - 1] for images in means],
        )
        search.report(
            f"searching {stop} steps from {used:g} starts with a prior of residuals x {weight:g}"
        )
        final = [self._ascent(errors) for errors in missed[: int(used)]]

        def reconstruct(features: FloatArray) -> FloatArray:
            *_, images = _means(
                ascent.run(search.distance, start(features), features, weight * apart, [stop])[0]
                for start, ascent in zip(starts, final, strict=False)
            )
            return images

        return reconstruct, ratio

    def _ascent(self, missed: FloatArray) -> Ascent:
        return Ascent(self.options.steps, ResidualPrior.of(missed, self.options.directions))

    def tuning(self, validation: int) -> int:
        """Return how many of the validation images the search is tuned on."""
        if self.options.prior == "residuals":  # which the others are for
            validation = max(1, validation // 2)
        return min(self.options.tuning_images, validation)

    def memory_bytes(self, sizes: Sizes) -> int:
        """Return the bytes of the search, and of what the starts miss on held-out images."""
        held_out = min((1 + _VARIATIONS) * sizes.validation, max(sizes.validation, _MOST_RESIDUALS))
        missed = 4 * (self.options.restarts + 6) * sizes.pixels  # of them, some in double precision
        return super().memory_bytes(sizes) + held_out * (4 * sizes.features + missed)

    def steps(self, tuning: int, intercepted: int) -> float:
        """Return the steps of tuning, and of a search to its end from every start."""
        options = self.options
        if options.prior == "total_variation":
            tried, searched = len(options.tv_weights), options.restarts
        else:
            searched = min(options.restarts, starts_of(options))
            tried = len(options.prior_weights) + searched  # every start, at the best weight
        return options.steps * (tried * tuning + searched * intercepted)

    def _further_starts(self, search: Search, count: int) -> list[FloatArray]:
        restarts = self.options.restarts
        auxiliary = search.evidence.auxiliary
        starts = [repeated(mean_of(auxiliary), count)] if restarts > 1 else []
        images = auxiliary.images
        for restart in range(2, restarts):
            rng = seeds.generator(search.seed, "white_box starts", restart)
            starts.append(images[rng.integers(0, len(images), count)])
        return starts


def _means(parts: Iterable[FloatArray]) -> Iterator[FloatArray]:
    """Yield the mean of the first part, of the first two, and so on."""
    total: FloatArray | None = None
    for count, part in enumerate(parts, 1):
        total = part if total is None else total + part
        yield total / np.float32(count)
