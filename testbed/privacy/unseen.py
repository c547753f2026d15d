"""The error bound of a release without noise, by image directions that no feature responds to.

The span of pulled-back features J' u of random signs u is that of the rows of the Jacobians. If it
has full rank, there is certainly no unseen direction. If it does not, the number of unseen
directions is an estimate, which counts only if the same number of further probes at other points
leaves it unchanged.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.privacy.error_bounds import Encoder, noise_free_bound

ZERO_SHARE = 1e-9
"""Eigenvalues below this share of the largest are rounding errors. Without noise, an attacker can
use all larger ones."""

ROWS_PER_DIMENSION = 2
PASSES_PER_ROW = 3  # forward and back, in forward passes
_CHUNK = 32


@dataclass(frozen=True)
class UnseenBound:
    """The noise-free error bound on the MSE per element, or None and the reason in words."""

    value: float | None
    reason: str = ""


def unseen_macs(dimension: int, encoder_macs: int) -> int:
    """Return the largest cost of ``unseen_bound``, in multiply-accumulates."""
    rows = 2 * ROWS_PER_DIMENSION * dimension
    return rows * (PASSES_PER_ROW * encoder_macs + dimension**2)


def unseen_bound(encoder: Encoder, points: Tensor, rng: torch.Generator) -> UnseenBound:
    """Return the noise-free error bound that holds for any distribution of smoothed images.

    Parameters
    ----------
    encoder : front-end in evaluation mode, as for ``ExpectedGram``; the release may be any function
        of its features, which cannot add information.
    points : smoothed images, (N, *input).
    """
    if len(points) < 2:
        return UnseenBound(None, "it needs two images")
    dimension = points[0].numel()
    gram = torch.zeros(dimension, dimension, dtype=torch.float64)
    bounds: list[float] = []
    for half in (points[::2], points[1::2]):
        rows = _pulled_back(encoder, half, ROWS_PER_DIMENSION * dimension, rng)
        if not torch.isfinite(rows).all():
            return UnseenBound(None, "its Jacobian is not finite")
        gram += rows.T @ rows
        bounds.append(noise_free_bound(gram, ZERO_SHARE))
        if bounds[-1] == 0.0:
            return UnseenBound(0.0)
    if bounds[1] != bounds[0]:
        return UnseenBound(None, "the directions that it ignores differ between images")
    return UnseenBound(bounds[1])


def _pulled_back(encoder: Encoder, points: Tensor, rows: int, rng: torch.Generator) -> Tensor:
    """Return J' u for at least ``rows`` pairs of a point and random signs u, (rows, d)."""
    probes = math.ceil(rows / len(points))
    pulled_back = []
    for part in torch.split(points, _CHUNK):
        x = part.detach().clone().requires_grad_()
        z = encoder(x)
        for _ in range(probes):
            signs = (torch.randint(0, 2, z.shape, generator=rng) * 2 - 1).to(z.dtype)
            (pulled,) = torch.autograd.grad(z, x, signs, retain_graph=True)
            pulled_back.append(pulled.flatten(1).double())
    return torch.cat(pulled_back)
