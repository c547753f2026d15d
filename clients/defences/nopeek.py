"""NoPeek (Vepakomma et al. 2020, arXiv 2008.09161): distance correlation as a penalty.

    L = alpha * DCOR(x, z) + CCE(y, p)

the paper's alpha_1 DCOR + alpha_2 CCE with the second weight fixed at 1. DCOR is the V-statistic on
the batch, biased like SiftFunnel's D.
"""

import torch
from pydantic import Field
from torch import Tensor

from clients.defences.base import Batch, Defence
from testbed.core.gating import composing
from testbed.core.registries import DEFENCES
from testbed.core.registry import Options, Positive

FEW_SAMPLES = 32
"""Up to this number, one kernel for all pairs is faster than ten small operations.

A device is charged for that kernel's work at any number.
"""


def pairwise_distances(samples: Tensor) -> Tensor:
    """Return the (N, N) Euclidean distances of flattened samples, with a gradient at 0."""
    flat = samples.flatten(1)
    if len(flat) <= FEW_SAMPLES or composing():
        plain = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
        return (plain.square() + 1e-10).sqrt()
    # |a - b|^2 = |a|^2 + |b|^2 - 2 ab, one matrix product for all pairs. Single precision would
    # lose small distances to cancellation; in double precision the error is far below 1e-10.
    centred = flat.double() - flat.double().mean(dim=0)
    products = centred @ centred.t()
    lengths = products.diagonal()
    squares = lengths[:, None] + lengths[None, :] - 2.0 * products
    return (squares.clamp_min(0.0) + 1e-10).sqrt().to(flat.dtype)


def distance_correlation_squared(x: Tensor, z: Tensor) -> Tensor:
    """Return dCor^2, the V-statistic on doubly centred Euclidean distances (Szekely 2007, def. 3).

    Parameters
    ----------
    x, z : (N, ...) samples, flattened per sample.
    """

    def centred(samples: Tensor) -> Tensor:
        distances = pairwise_distances(samples)
        return (
            distances
            - distances.mean(dim=0, keepdim=True)
            - distances.mean(dim=1, keepdim=True)
            + distances.mean()
        )

    a, b = centred(x), centred(z)
    # For a constant batch the correlation is defined as 0, not 0 / 0.
    scale = (a.square().mean() * b.square().mean()).clamp_min(1e-20).sqrt()
    return (a * b).mean() / scale


class NoPeekOptions(Options):
    """Weight and form of the penalty."""

    alpha: Positive = Field(
        default=1.0, description="weight of the distance correlation against a task weight of 1"
    )
    squared: bool = Field(
        default=False, description="penalise dCor^2 instead of dCor, as SiftFunnel does"
    )


@DEFENCES.register(
    "nopeek",
    "distance correlation of images and features as a penalty",
    NoPeekOptions,
    source="Vepakomma et al. 2020, arXiv 2008.09161",
)
class NoPeek(Defence):
    """Penalises the dependence between images and features."""

    options: NoPeekOptions
    penalises_distance_correlation = True

    def penalty(self, batch: Batch) -> Tensor | None:
        """Return alpha * DCOR(x, z)."""
        correlation = distance_correlation_squared(batch.x, batch.z)
        if not self.options.squared:
            # Constant features are at the minimum already; the root alone has no gradient there.
            correlation = correlation.clamp_min(1e-12).sqrt()
        return self.options.alpha * correlation
