"""Dropout of features, in serving as in training.

Each feature is nullified with a given probability (He, Zhang and Lee, IEEE IoT Journal 8, 2021;
ARDEN's nullification, arXiv 1809.03428), and the rest scaled by 1 / (1 - p) so that the expectation
stays z (inverted dropout, Srivastava et al. 2014, sec. 10).
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from clients.defences.base import Defence
from testbed.core.registries import DEFENCES
from testbed.core.registry import Options


class FeatureDropoutOptions(Options):
    """Probability and unit of the dropout."""

    probability: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.5, description="probability of dropping a unit"
    )
    unit: Literal["feature", "channel"] = Field(
        default="feature", description="single features, or whole channels of an image"
    )


@DEFENCES.register(
    "feature_dropout",
    "drops features at random, in serving as in training",
    FeatureDropoutOptions,
    source="He et al. 2021 (IEEE IoT Journal 8); ARDEN, arXiv 1809.03428",
)
class FeatureDropout(Defence):
    """Drops every unit of every image independently."""

    options: FeatureDropoutOptions

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return z * mask / (1 - p), with mask 0 with probability p and 1 otherwise."""
        probability = self.options.probability
        per_unit = z.shape if self.options.unit == "feature" else (*z.shape[:2], 1, 1)
        mask = torch.rand(per_unit, generator=rng, device=rng.device) >= probability
        return z * (mask.to(device=z.device, dtype=z.dtype) / (1.0 - probability))
