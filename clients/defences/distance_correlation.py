"""Distance correlation between images and features, a loss term of several defences."""

import torch
from torch import Tensor


def distance_correlation_squared(x: Tensor, z: Tensor) -> Tensor:
    """Return dCor^2, the V-statistic on doubly centred Euclidean distances (Szekely 2007, def. 3).

    Parameters
    ----------
    x, z : (N, ...) samples, flattened per sample.
    """

    def centred(samples: Tensor) -> Tensor:
        flat = samples.flatten(1)
        # Not the matrix-multiplication form: it loses small distances to cancellation.
        plain = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
        distances = (plain.square() + 1e-10).sqrt()
        return (
            distances
            - distances.mean(dim=0, keepdim=True)
            - distances.mean(dim=1, keepdim=True)
            + distances.mean()
        )

    a, b = centred(x), centred(z)
    # A constant batch has no distances at all: its correlation is 0, not 0 / 0.
    scale = (a.square().mean() * b.square().mean()).clamp_min(1e-20).sqrt()
    return (a * b).mean() / scale
