"""Distances between samples, for distance correlation and kernels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOAT32_NOISE = 1e-13
"""Squared variations below this share of the squared norm are rounding errors."""

Matrix = NDArray[np.float64]


def euclidean_distances(samples: NDArray[Any]) -> Matrix:
    """Return the (N, N) Euclidean distances between flattened samples, in double precision."""
    flat = samples.reshape(len(samples), -1).astype(np.float64)
    noise = FLOAT32_NOISE * float(np.square(flat).sum(axis=1).max(initial=0.0))
    flat -= flat.mean(axis=0)  # keeps distances, and reduces rounding errors
    squares = np.square(flat).sum(axis=1)
    squared: Matrix = squares[:, None] - 2.0 * (flat @ flat.T) + squares[None, :]
    squared[squared <= noise] = 0.0
    np.fill_diagonal(squared, 0.0)
    return np.sqrt(squared)
