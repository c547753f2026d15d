"""NoPeek (Vepakomma et al. 2020, arXiv 2008.09161): distance correlation as a penalty.

    L = alpha * DCOR(x, z) + CCE(y, p)

the paper's alpha_1 DCOR + alpha_2 CCE with the second weight fixed at 1. DCOR is the V-statistic on
the batch, biased like SiftFunnel's D.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from clients.defences.base import Batch, Defence
from clients.defences.distance_correlation import distance_correlation_squared
from testbed.core.registries import DEFENCES
from testbed.core.registry import Options


class NoPeekOptions(Options):
    """Weight and form of the penalty."""

    alpha: Annotated[float, Field(gt=0.0)] = Field(
        default=1.0, description="weight of the distance correlation against a task weight of 1"
    )
    squared: bool = Field(
        default=False, description="penalise dCor^2 in place of dCor, as SiftFunnel does"
    )


class NoPeek(Defence):
    """Penalises the dependence between images and features; see the module's formula."""

    def __init__(self, options: NoPeekOptions) -> None:
        self.options = options

    def penalty(self, batch: Batch) -> Tensor | None:
        """Return alpha * DCOR(x, z)."""
        correlation = distance_correlation_squared(batch.x, batch.z)
        if not self.options.squared:
            # Constant features are at the minimum already; the root alone has no gradient there.
            correlation = correlation.clamp_min(1e-12).sqrt()
        return self.options.alpha * correlation


@DEFENCES.register(
    "nopeek",
    "distance correlation of images and features as a penalty",
    NoPeekOptions,
    source="Vepakomma et al. 2020, arXiv 2008.09161",
)
def nopeek(options: NoPeekOptions) -> Defence:
    """Build the NoPeek defence."""
    return NoPeek(options)
