"""Measures of the information of features about their inputs, without an attack.

They are reported beside attacks, and do not replace them.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.adversaries.base import FloatArray
from testbed.privacy.distances import FLOAT32_NOISE, Matrix, euclidean_distances
from testbed.privacy.hsic import normalised_hsic

LIVE_CHANNEL_SHARE = 0.01
"""A channel is live if its standard deviation exceeds this share of the largest one."""

_FEWEST_SAMPLES = 4


def live_channels(features: FloatArray) -> int:
    """Count the channels whose standard deviation over samples and space is not negligible.

    The threshold is relative (``LIVE_CHANNEL_SHARE`` of the largest), so the scale of the features
    does not matter; a constant tensor has no live channel.
    """
    deviation: Matrix = features.astype(np.float64).std(axis=(0, 2, 3))
    largest = float(deviation.max(initial=0.0))
    magnitude = float(np.abs(features).max(initial=0.0))
    if largest <= 1e-6 * magnitude:  # constant up to float32 rounding errors
        return 0
    return int((deviation > LIVE_CHANNEL_SHARE * largest).sum())


def covariance_spectrum(features: FloatArray) -> Matrix:
    """Return the non-trivial eigenvalues of the covariance of flattened features, ascending.

    With fewer samples N than dimensions d they come from the N x N Gram matrix, which has the same
    non-zero eigenvalues.
    """
    flat = features.reshape(len(features), -1).astype(np.float64)
    noise = FLOAT32_NOISE * float(np.square(flat).sum(axis=1).max(initial=0.0))
    flat -= flat.mean(axis=0)
    samples, dimensions = flat.shape
    product = flat @ flat.T if samples < dimensions else flat.T @ flat
    eigenvalues: Matrix = np.linalg.eigvalsh(product / max(samples - 1, 1)).astype(np.float64)
    eigenvalues[eigenvalues <= noise] = 0.0
    return eigenvalues


def participation_ratio(spectrum: Matrix) -> float:
    """Return (sum e)^2 / sum e^2 of the eigenvalues: 1 for one direction, d for d equal ones."""
    square = float(np.square(spectrum).sum())
    return float(spectrum.sum() ** 2 / square) if square > 0.0 else 0.0


def spectral_rank(spectrum: Matrix) -> float:
    """Return exp of the entropy of the normalised eigenvalues.

    References
    ----------
    Roy, Vetterli, The effective rank, EUSIPCO 2007, definition 1.
    """
    total = float(spectrum.sum())
    if total <= 0.0:
        return 0.0
    shares = spectrum[spectrum > 0.0] / total
    return math.exp(-float((shares * np.log(shares)).sum()))


def distance_correlation_v(x: NDArray[Any], z: NDArray[Any]) -> float:
    """Return the squared distance correlation as a V-statistic, in [0, 1].

    Losses use this statistic; it is biased upwards, strongly for high dimensions and few samples.
    Zero if either side is constant.

    Parameters
    ----------
    x, z : (N, ...) paired samples, flattened.

    References
    ----------
    Szekely, Rizzo, Bakirov, Annals of Statistics 35(6), 2007, definitions 4 and 5.
    """
    a, b = (_doubly_centred(euclidean_distances(side)) for side in (x, z))
    scale = math.sqrt(float(np.square(a).mean()) * float(np.square(b).mean()))
    return float((a * b).mean()) / scale if scale > 0.0 else 0.0


def distance_correlation_u(x: NDArray[Any], z: NDArray[Any]) -> float:
    """Return the bias-corrected squared distance correlation (U-statistic); it may be negative.

    Zero if either side is constant.

    Raises
    ------
    ValueError : fewer than four samples.

    References
    ----------
    Szekely, Rizzo, Journal of Multivariate Analysis 117, 2013, equation 3.7 and definition 2;
    in its U-centred form: Annals of Statistics 42(6), 2014, definitions 2 and 3.
    """
    if len(x) < _FEWEST_SAMPLES:
        raise ValueError("the bias-corrected distance correlation needs at least 4 samples")
    a, b = (_u_centred(euclidean_distances(side)) for side in (x, z))
    scale = math.sqrt(float(np.square(a).sum()) * float(np.square(b).sum()))
    return float((a * b).sum()) / scale if scale > 0.0 else 0.0


def _doubly_centred(distances: Matrix) -> Matrix:
    row = distances.mean(axis=0)
    centred: Matrix = distances - row[:, None] - row[None, :] + row.mean()
    return centred


def _u_centred(distances: Matrix) -> Matrix:
    count = len(distances)
    row = distances.sum(axis=0)
    centred: Matrix = (
        distances
        - row[:, None] / (count - 2)
        - row[None, :] / (count - 2)
        + row.sum() / ((count - 1) * (count - 2))
    )
    np.fill_diagonal(centred, 0.0)
    return centred


@dataclass(frozen=True)
class Leakage:
    """Measures of the features of one arm.

    Attributes
    ----------
    channels, live_channels : channels of the features, and those that vary (``live_channels``).
    participation_ratio, spectral_rank : effective ranks of the covariance of flattened features.
    dcor_v, dcor_u : squared distance correlation of inputs and features, V- and U-statistic.
    hsic : normalised unbiased HSIC of the two, near 0 if they are independent, 1 for copies.
    mean_abs_feature : mean |z|, the entropy proxy of the SiftFunnel code.
    nonzero_per_sample : mean count of non-zero entries, its effective information volume.
    samples : number of measured images.

    Measures are None for fewer than four samples, or if features are not finite.
    """

    channels: int
    samples: int
    live_channels: int | None = None
    participation_ratio: float | None = None
    spectral_rank: float | None = None
    dcor_v: float | None = None
    dcor_u: float | None = None
    hsic: float | None = None
    mean_abs_feature: float | None = None
    nonzero_per_sample: float | None = None


def measure_leakage(images: FloatArray, features: FloatArray, samples: int = 512) -> Leakage:
    """Measure the leakage of features on the first ``samples`` pairs.

    Parameters
    ----------
    images : inputs in [0, 1], (N, C, H, W).
    features : what the front-end releases for them, (N, C', H', W').
    samples : most pairs to use; the V-statistic depends on their number.

    Raises
    ------
    ValueError : shapes that do not pair up.
    """
    if features.ndim != 4 or len(images) != len(features):
        raise ValueError(f"images {images.shape} and features {features.shape} do not pair up")
    images, features = images[:samples], features[:samples]
    if len(features) < _FEWEST_SAMPLES or not np.isfinite(features).all():
        return Leakage(channels=features.shape[1], samples=len(features))
    spectrum = covariance_spectrum(features)
    return Leakage(
        channels=features.shape[1],
        samples=len(features),
        live_channels=live_channels(features),
        participation_ratio=participation_ratio(spectrum),
        spectral_rank=spectral_rank(spectrum),
        dcor_v=distance_correlation_v(images, features),
        dcor_u=distance_correlation_u(images, features),
        hsic=normalised_hsic(images, features),
        mean_abs_feature=float(np.abs(features).mean(dtype=np.float64)),
        nonzero_per_sample=float(np.count_nonzero(features) / len(features)),
    )
