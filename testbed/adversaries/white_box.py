"""White-box optimisation: search the image whose features, through the known weights, are these.

Minimises |(f(x) - z) / s|^2 per element plus a total-variation prior by projected Adam, s being the
auxiliary deviation of each channel, so that the balance does not depend on the scale of z. The
prior's weight and the number of steps are tuned on the attacker's validation images, with no step
at all among the choices: where searching would only fit a release's noise, the start is kept. A
random release is drawn afresh at every step (expectation over the release). Restarts are compared
by feature distance only, which is all that an attacker of real victims can see.

References
----------
He, Zhang, Lee, Model inversion attacks against collaborative inference, ACSAC 2019, section 4
(regularised maximum likelihood, there by plain gradient descent).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from testbed.adversaries.base import Evidence, FloatArray, Reconstruction
from testbed.adversaries.feature_search import Descent, FeatureDistance
from testbed.adversaries.mean_image import mean_of
from testbed.adversaries.released import ChannelNormaliser, ReleasedFeatures, granted_weights
from testbed.adversaries.residual_decoder import DecoderTraining, ResidualDecoderOptions
from testbed.core import seeds
from testbed.core.registries import ATTACKS
from testbed.core.registry import Options
from testbed.scenario.threat_model import ThreatModel

Start = Callable[[FloatArray], FloatArray]


class WhiteBoxOptions(Options):
    """Options of the white-box attack."""

    start: Literal["decoder", "mean_image"] = Field(
        default="decoder", description="first start of the search; a decoder costs its training"
    )
    decoder: ResidualDecoderOptions = ResidualDecoderOptions()
    steps: Annotated[int, Field(ge=8, le=100_000)] = 240
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(
        default=0.1, description="of Adam, decayed to zero along a cosine"
    )
    tv_weights: list[Annotated[float, Field(ge=0.0)]] = Field(
        default=[0.0, 0.03, 0.1], min_length=1, description="weights of the prior tried in tuning"
    )
    tuning_images: Annotated[int, Field(ge=1)] = 16
    restarts: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1,
        description="starts per victim: the first, the mean image, then auxiliary images at random",
    )


@ATTACKS.register(
    "white_box",
    "searches images through the known weights: feature distance + total variation, warm start",
    WhiteBoxOptions,
)
class WhiteBox:
    """Regularised maximum-likelihood inversion."""

    is_anchor = False
    rebuilds_images = True
    threat = ThreatModel(weights=True, queries=True)
    search_space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "steps": (120, 240, 480),
        "learning_rate": (0.03, 0.1, 0.3),
        "restarts": (1, 2),
    }

    def __init__(self, options: WhiteBoxOptions) -> None:
        self.options = options
        self._descent = Descent(options.steps, options.learning_rate)

    def mount(
        self, evidence: Evidence, seed: int, progress: Callable[[str], None] | None = None
    ) -> Reconstruction:
        """Make a start, tune on the attacker's validation images, search every victim's image."""
        oracle = granted_weights(evidence, "white_box")
        released = ReleasedFeatures(evidence, "white_box")
        normalise = ChannelNormaliser.fit(released.training(0))
        distance = FeatureDistance(oracle, normalise, released.is_random)
        options = self.options
        first, account = first_start(options.start, options.decoder, evidence, seed, progress)
        features = evidence.intercepts.features
        if distance.is_flat or len(features) == 0:
            return replace(account, images=first(features), again=first)
        tv_weight, stop = self._tune(distance, released, first)
        if progress is not None:
            progress(f"searching {stop} steps with total variation x {tv_weight:g}")

        def search(features: FloatArray) -> FloatArray:
            starts = [first(features), *self._further_starts(evidence, len(features), seed)]
            ends = [
                self._descent.run(distance, start, features, tv_weight, [stop])[0]
                for start in starts
            ]
            nearest = np.argmin([distance.expected(end, features) for end in ends], axis=0)
            images: FloatArray = np.stack(ends)[nearest, np.arange(len(features))]
            return images

        return replace(account, images=search(features), again=search)

    def _tune(
        self,
        distance: FeatureDistance,
        released: ReleasedFeatures,
        start: Start,
    ) -> tuple[float, int]:
        """Return the prior's weight and the number of steps with the least validation error."""
        count = self.options.tuning_images
        truth = released.auxiliary_validation.images[:count]
        features = released.validation()[:count]
        steps = self.options.steps
        stops = [0, steps // 8, steps // 4, steps // 2, steps]
        choices = []
        for tv_weight in self.options.tv_weights:
            ends = self._descent.run(distance, start(features), features, tv_weight, stops)
            for stop, images in zip(stops, ends, strict=True):
                error = float(np.square(images - truth, dtype=np.float64).mean())
                choices.append((error, stop, tv_weight))
        _, stop, tv_weight = min(choices)
        return tv_weight, stop

    def _further_starts(self, evidence: Evidence, count: int, seed: int) -> list[FloatArray]:
        restarts = self.options.restarts
        starts = [_repeat(mean_of(evidence.auxiliary), count)] if restarts > 1 else []
        images = evidence.auxiliary.images
        for restart in range(2, restarts):
            rng = seeds.generator(seed, "white_box starts", restart)
            starts.append(images[rng.integers(0, len(images), count)])
        return starts


def first_start(
    start: str,
    decoder: ResidualDecoderOptions,
    evidence: Evidence,
    seed: int,
    progress: Callable[[str], None] | None,
) -> tuple[Start, Reconstruction]:
    """Return what maps features to starting images, and the account of its training.

    Parameters
    ----------
    start : ``decoder`` or ``mean_image``.
    """
    mean = mean_of(evidence.auxiliary)
    if start == "mean_image":
        return lambda features: _repeat(mean, len(features)), Reconstruction(mean[None])
    training = DecoderTraining(decoder, evidence, seed)
    training.run(progress)
    return training.reconstruct, training.account(mean[None])


def _repeat(image: FloatArray, count: int) -> FloatArray:
    return np.broadcast_to(image, (count, *image.shape)).copy()
