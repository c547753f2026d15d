"""Hilbert-Schmidt independence criterion between inputs and features, with Gaussian kernels."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.privacy.distances import Matrix, euclidean_distances

_FEWEST_SAMPLES = 4
_ROUNDING = 1e-12  # rounding error of the HSIC of a constant in double precision


def gaussian_kernel(samples: NDArray[Any], width: float | None = None) -> Matrix:
    """Return exp(-|a - b|^2 / (2 width^2)) of flattened samples, (N, N).

    Parameters
    ----------
    samples : (N, ...).
    width : None uses the median distance between different samples, which makes the kernel
        independent of their scale; constant samples give a constant kernel.
    """
    distances = euclidean_distances(samples)
    if width is None:
        between = distances[np.triu_indices(len(distances), k=1)]
        width = float(np.median(between[between > 0.0])) if (between > 0.0).any() else 1.0
    kernel: Matrix = np.exp(-0.5 * np.square(distances / width))
    return kernel


def hsic_unbiased(k: Matrix, m: Matrix) -> float:
    """Return the unbiased estimate of HSIC; it may be negative.

    Raises
    ------
    ValueError : fewer than four samples.

    References
    ----------
    Song, Smola, Gretton, Bedo, Borgwardt, JMLR 13, 2012, equation 5.
    """
    count = len(k)
    if count < _FEWEST_SAMPLES:
        raise ValueError("the unbiased HSIC needs at least 4 samples")
    off = 1.0 - np.eye(count)
    k, m = k * off, m * off
    cross = float((k * m).sum())
    product = float(k.sum()) * float(m.sum()) / ((count - 1) * (count - 2))
    rows = float(k.sum(axis=0) @ m.sum(axis=0)) * 2.0 / (count - 2)
    return (cross + product - rows) / (count * (count - 3))


def normalised_hsic(x: NDArray[Any], z: NDArray[Any]) -> float:
    """Return unbiased HSIC(x, z) / sqrt(HSIC(x, x) HSIC(z, z)), also called unbiased CKA.

    Near 0 for independent sides (it may be negative) and 1 for equal ones; 0 if a side is constant.

    Parameters
    ----------
    x, z : (N, ...) paired samples, flattened; Gaussian kernels of median width.
    """
    k, m = gaussian_kernel(x), gaussian_kernel(z)
    norms = hsic_unbiased(k, k), hsic_unbiased(m, m)
    if min(norms) < _ROUNDING:
        return 0.0
    return hsic_unbiased(k, m) / math.sqrt(norms[0] * norms[1])
