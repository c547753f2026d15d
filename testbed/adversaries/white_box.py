"""White-box optimisation: search for the image with the intercepted features.

Minimises |(f(x) - z) / s|^2 per element plus a total-variation prior by projected Adam, with the
auxiliary deviation s of each channel, so that the balance does not depend on the scale of z. The
prior's weight and the number of steps are tuned on the attacker's validation images. Zero steps are
among the choices: if a search would only fit the noise of a release, the start is kept. A random
release is drawn anew at every step (expectation over the release). Restarts are compared by feature
distance only, since an attacker of real victims can compute nothing else.

References
----------
He, Zhang, Lee, Model inversion attacks against collaborative inference, ACSAC 2019, section 4
(regularised maximum likelihood, there by plain gradient descent).
"""

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from testbed.adversaries.base import FloatArray
from testbed.adversaries.feature_search import Descent, FeatureSearch, Reconstruct, Search
from testbed.adversaries.mean_image import mean_of, repeated
from testbed.adversaries.residual_decoder import ResidualDecoderOptions
from testbed.core import seeds
from testbed.core.registries import ATTACKS
from testbed.core.registry import NonNegative, Options, Positive


class WhiteBoxOptions(Options):
    """Options of the white-box attack."""

    start: Literal["decoder", "mean_image"] = Field(
        default="decoder", description="first start of the search; a decoder must be trained"
    )
    decoder: ResidualDecoderOptions = ResidualDecoderOptions()
    steps: Annotated[int, Field(ge=8, le=100_000)] = 240
    learning_rate: Positive = Field(
        default=0.1, description="of Adam, decayed to zero along a cosine"
    )
    tv_weights: list[NonNegative] = Field(
        default=[0.0, 0.03, 0.1], min_length=1, description="weights of the prior tried in tuning"
    )
    tuning_images: Annotated[int, Field(ge=1)] = 16
    restarts: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1,
        description="starts per victim: the first, the mean image, then auxiliary images at random",
    )


@ATTACKS.register(
    "white_box",
    "searches for images through the known weights: feature distance + total variation, warm start",
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

    def tuned(self, search: Search) -> Reconstruct:
        """Return the search with the best prior and number of steps, from one start or several."""
        descent = Descent(self.options.steps, self.options.learning_rate)
        stops = [0, *(self.options.steps // part for part in (8, 4, 2, 1))]

        def ends(features: FloatArray, weight: float) -> list[FloatArray]:
            return descent.run(search.distance, search.start(features), features, weight, stops)

        weights, count = self.options.tv_weights, self.options.tuning_images
        tv_weight, stop = search.best_choice(count, weights, stops, ends)
        search.report(f"searching {stop} steps with total variation x {tv_weight:g}")

        def reconstruct(features: FloatArray) -> FloatArray:
            starts = [search.start(features), *self._further_starts(search, len(features))]
            candidates = [
                descent.run(search.distance, start, features, tv_weight, [stop])[0]
                for start in starts
            ]
            distances = [search.distance.expected(images, features) for images in candidates]
            nearest = np.argmin(distances, axis=0)
            images: FloatArray = np.stack(candidates)[nearest, np.arange(len(features))]
            return images

        return reconstruct

    def steps(self, tuning: int, intercepted: int) -> float:
        """Return the steps of tuning, and of a search to its end from every start."""
        options = self.options
        return options.steps * (len(options.tv_weights) * tuning + options.restarts * intercepted)

    def _further_starts(self, search: Search, count: int) -> list[FloatArray]:
        restarts = self.options.restarts
        auxiliary = search.evidence.auxiliary
        starts = [repeated(mean_of(auxiliary), count)] if restarts > 1 else []
        images = auxiliary.images
        for restart in range(2, restarts):
            rng = seeds.generator(search.seed, "white_box starts", restart)
            starts.append(images[rng.integers(0, len(images), count)])
        return starts
