"""The error bound of a release without noise, by image directions that no feature responds to.

The rows of the Jacobians span what the features respond to. If the rows found on some points have
full rank, there is certainly no unseen direction. If not, directions that these points do not show
may be shown by others: from points alone, the number of unseen directions is too high, and so is
the bound. A number above 0 therefore counts only if the front-end ignores the directions whatever
the image: held-out points must not respond to them, nor must images far from the data, on which
units that are idle for all of the data wake up.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.privacy.error_bounds import ANY_DISTRIBUTION_PRIOR, Encoder, pulled_back

ZERO_SHARE = 1e-9
"""Energies below this share of the largest are rounding errors. Without noise, an attacker can use
all larger ones."""

FAR_STD = (1.0, 10.0)
"""Noise on the images that are far from the data."""

ROWS_PER_DIMENSION = 2
PASSES_PER_ROW = 3  # forward and back, in forward passes


@dataclass(frozen=True)
class UnseenBound:
    """The noise-free error bound on the MSE per element, or None and the reason in words."""

    value: float | None
    reason: str = ""


def unseen_macs(dimension: int, encoder_macs: int) -> int:
    """Return the largest cost of ``unseen_bound``, in multiply-accumulates."""
    rows = (2 * ROWS_PER_DIMENSION + len(FAR_STD)) * dimension
    return rows * (PASSES_PER_ROW * encoder_macs + dimension**2)


def unseen_bound(encoder: Encoder, points: Tensor, rng: torch.Generator) -> UnseenBound:
    """Return the noise-free error bound that holds for any distribution of smoothed images.

    Parameters
    ----------
    encoder : front-end in evaluation mode, as for ``pulled_back``; the release may be any function
        of its features, which cannot add information.
    points : smoothed images, (N, *input).
    """
    if len(points) < 2:
        return UnseenBound(None, "it needs two images")
    dimension = points[0].numel()
    rows = _rows(encoder, points[::2], ROWS_PER_DIMENSION * dimension, rng)
    if not torch.isfinite(rows).all():
        return UnseenBound(None, "its Jacobian is not finite")
    gram = rows.T @ rows
    if _full_rank(gram):
        return UnseenBound(0.0)
    values, vectors = torch.linalg.eigh(gram)
    unseen = vectors[:, values <= ZERO_SHARE * values[-1]]
    if unseen.shape[1] == 0:
        return UnseenBound(0.0)
    held_out = points[1::2]
    rest = _rows(encoder, held_out, ROWS_PER_DIMENSION * dimension, rng)
    if torch.isfinite(rest).all() and _full_rank(gram + rest.T @ rest):
        return UnseenBound(0.0)
    for std in FAR_STD:
        far = held_out + std * torch.randn(held_out.shape, generator=rng).to(held_out)
        rest = torch.cat([rest, _rows(encoder, far, dimension, rng)])
    if not torch.isfinite(rest).all():
        return UnseenBound(None, "its Jacobian is not finite")
    energy, shown = rest.square().sum(dim=1), (rest @ unseen).square().sum(dim=1)
    if bool((shown > ZERO_SHARE * energy).any()):
        return UnseenBound(
            None,
            "the directions that it ignores differ between images, so that an image may show what "
            "others hide",
        )
    return UnseenBound(unseen.shape[1] / ANY_DISTRIBUTION_PRIOR / dimension)


def _full_rank(gram: Tensor) -> bool:
    """Say whether all eigenvalues are above the threshold; much faster than to compute them.

    No means that they are not or, since the norm exceeds the largest one, that they hardly are.
    """
    weakest = ZERO_SHARE * float(torch.linalg.norm(gram))
    shifted = gram - weakest * torch.eye(len(gram)).to(gram)
    return int(torch.linalg.cholesky_ex(shifted).info) == 0


def _rows(encoder: Encoder, points: Tensor, rows: int, rng: torch.Generator) -> Tensor:
    """Return J' u for at least ``rows`` pairs of a point and random signs u, (rows, d)."""
    probes = math.ceil(rows / len(points))
    return pulled_back(encoder, points, probes, rng).flatten(0, 1).double()
