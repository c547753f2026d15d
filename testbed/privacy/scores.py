"""Scores of reconstructions against the truth, one value per victim.

Only the scorer calls these: it holds the true images, the attacks never do.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_msssim import ssim as windowed_ssim

from testbed.adversaries.base import FloatArray, IntArray

MAX_PSNR_DB = 100.0
"""PSNR of an exact copy. An MSE below 1e-10 (0 included) is reported as this, never as infinity."""

MIN_SSIM_SIZE_PX = 16
_CHUNK = 256
_BLOCK_DISTANCES = 4_000_000

ScoreArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def _check_pair(reconstructions: FloatArray, truths: FloatArray) -> None:
    if reconstructions.ndim != 4 or reconstructions.shape != truths.shape:
        raise ValueError(
            f"reconstructions {reconstructions.shape} and truths {truths.shape} must both be "
            "(N, C, H, W) and have the same shape"
        )


def mse(reconstructions: FloatArray, truths: FloatArray) -> ScoreArray:
    """Return the mean squared error per element of each image, (N,).

    Raises
    ------
    ValueError : the shapes differ or are not (N, C, H, W).
    """
    _check_pair(reconstructions, truths)
    errors = np.empty(len(truths))
    for start in range(0, len(truths), _CHUNK):
        part = slice(start, start + _CHUNK)
        difference = reconstructions[part].astype(np.float64) - truths[part]
        errors[part] = np.square(difference).mean(axis=(1, 2, 3))
    return errors


def psnr_db(mse_per_image: ScoreArray) -> ScoreArray:
    """Return 10 log10(1 / MSE) in decibels, for images in [0, 1], capped at ``MAX_PSNR_DB``."""
    smallest = 10.0 ** (-MAX_PSNR_DB / 10.0)
    capped: ScoreArray = -10.0 * np.log10(np.maximum(mse_per_image, smallest))
    return capped


def ssim(reconstructions: FloatArray, truths: FloatArray) -> ScoreArray:
    """Return the SSIM of each image, (N,): Gaussian 11, sigma 1.5, valid crop, data range 1.

    The index is computed per channel and averaged over channels, in double precision.

    Raises
    ------
    ValueError : the shapes differ, or an image is smaller than ``MIN_SSIM_SIZE_PX`` pixels.

    References
    ----------
    Wang, Bovik, Sheikh, Simoncelli, IEEE Transactions on Image Processing 13(4), 2004.
    """
    _check_pair(reconstructions, truths)
    if min(truths.shape[2:]) < MIN_SSIM_SIZE_PX:
        raise ValueError(f"SSIM needs images of at least {MIN_SSIM_SIZE_PX} pixels a side")
    values = np.empty(len(truths))
    for start in range(0, len(truths), _CHUNK):
        part = slice(start, start + _CHUNK)
        values[part] = windowed_ssim(
            torch.from_numpy(reconstructions[part].astype(np.float64)),
            torch.from_numpy(truths[part].astype(np.float64)),
            data_range=1.0,
            size_average=False,
            win_size=11,
            win_sigma=1.5,
        ).numpy()
    return values


def cosine_similarity(reconstructions: FloatArray, truths: FloatArray) -> ScoreArray:
    """Return the cosine similarity of each image and its reconstruction, means removed, (N,).

    Each image is one vector of all pixels and channels; its mean over them is subtracted. The value
    is 0 where either is constant: without a pattern there is nothing to resemble.

    Raises
    ------
    ValueError : the shapes differ or are not (N, C, H, W).
    """
    _check_pair(reconstructions, truths)
    values = np.zeros(len(truths))
    for start in range(0, len(truths), _CHUNK):
        part = slice(start, start + _CHUNK)
        pair = np.stack([reconstructions[part], truths[part]]).astype(np.float64)
        vectors = pair.reshape(*pair.shape[:2], -1)
        varied = (vectors.min(axis=2) < vectors.max(axis=2)).all(axis=0)
        vectors = vectors[:, varied] - vectors[:, varied].mean(axis=2, keepdims=True)
        norms = np.linalg.norm(vectors, axis=2).prod(axis=0)
        values[part][varied] = vectors.prod(axis=0).sum(axis=1) / norms
    return values


def reidentified(reconstructions: FloatArray, pool: FloatArray, pool_index: IntArray) -> BoolArray:
    """Return whether each reconstruction's nearest image of the pool is the true one, (N,).

    Nearest is by mean squared error per pixel. Ties are broken against the attacker: the true image
    must be strictly nearer than every image that differs from it. A pool image that equals the true
    one in every pixel is the true one as far as pixels can tell.

    Parameters
    ----------
    reconstructions : (N, C, H, W).
    pool : images to choose from, (P, C, H, W); the P is what chance is stated against.
    pool_index : (N,) position of the true image of each reconstruction in the pool.

    Raises
    ------
    ValueError : an empty pool, other shapes, or an index outside the pool.
    """
    if len(pool) == 0 or pool.shape[1:] != reconstructions.shape[1:]:
        raise ValueError(
            f"the pool {pool.shape} must hold images shaped as {reconstructions.shape[1:]}"
        )
    if len(pool_index) != len(reconstructions):
        raise ValueError("pool_index needs one entry per reconstruction")
    if len(pool_index) and not 0 <= pool_index.min() <= pool_index.max() < len(pool):
        raise ValueError("pool_index points outside the pool")
    # |r - p|^2 = |r|^2 - 2 r.p + |p|^2 in double precision: errors of about 1e-12 of the norms, far
    # below the distance between two different 8-bit images; nearer than that counts as a tie.
    candidates = pool.reshape(len(pool), -1).astype(np.float64)
    candidate_norms = np.square(candidates).sum(axis=1)
    copies = _first_copies(pool)
    hits = np.zeros(len(reconstructions), dtype=np.bool_)
    rows = max(1, _BLOCK_DISTANCES // len(pool))
    for start in range(0, len(reconstructions), rows):
        part = slice(start, start + rows)
        guesses = reconstructions[part].reshape(len(reconstructions[part]), -1).astype(np.float64)
        norms = np.square(guesses).sum(axis=1)
        distances = norms[:, None] - 2.0 * (guesses @ candidates.T) + candidate_norms[None, :]
        truth = pool_index[part]
        own = distances[np.arange(len(truth)), truth]
        is_other = copies[None, :] != copies[truth][:, None]
        nearest_other = np.where(is_other, distances, np.inf).min(axis=1)
        tie = 1e-11 * (1.0 + norms + candidate_norms.max())
        hits[part] = own + tie < nearest_other
    return hits


def _first_copies(pool: FloatArray) -> IntArray:
    """Map each image of the pool to the first one with exactly the same pixels."""
    seen: dict[bytes, int] = {}
    first = [seen.setdefault(image.tobytes(), index) for index, image in enumerate(pool)]
    return np.array(first, dtype=np.int64)


def score(
    reconstructions: FloatArray, truths: FloatArray, pool: FloatArray, pool_index: IntArray
) -> dict[str, NDArray[Any]]:
    """Return every score of each reconstruction, (N,), by column of attacks.parquet.

    Arguments as in ``mse`` and ``reidentified``.
    """
    errors = mse(reconstructions, truths)
    return {
        "mse": errors,
        "psnr_db": psnr_db(errors),
        "ssim": ssim(reconstructions, truths),
        "cosine_similarity": cosine_similarity(reconstructions, truths),
        "reidentified": reidentified(reconstructions, pool, pool_index),
    }
