"""Bootstrap intervals of means over victims."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from testbed.core import seeds

LEVEL = 0.95
TAILS = [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0]
_MAX_DRAWS = 4_000_000

Values = NDArray[np.float64]


class Interval(BaseModel):
    """A mean over ``n`` observations (victims) with its bootstrap 95 % percentile interval.

    ``low`` and ``high`` are the 2.5 % and 97.5 % points; None with fewer than two observations.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0


def bootstrap_means(values: Values, resamples: int, seed: int, *ids: int) -> Values:
    """Return the means of ``resamples`` resamples with replacement.

    The resamples depend on (seed, ids, number of values) only: two arrays of one length get the
    same ones, so that differences between the results are paired.

    Parameters
    ----------
    values : (n,) or (n, k) observations, n at least 1; columns share their resamples.

    Returns
    -------
    (resamples,) or (resamples, k).
    """
    values = np.asarray(values, dtype=np.float64)
    count = len(values)
    rng = seeds.generator(seed, "bootstrap", *ids)
    means = np.empty((resamples, *values.shape[1:]))
    rows = max(1, _MAX_DRAWS // values.size)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        means[start:stop] = values[rng.integers(0, count, (stop - start, count))].mean(axis=1)
    return means


def bootstrap_interval(values: Values, resamples: int, seed: int, *ids: int) -> Interval:
    """Return the mean of ``values`` (n,) with its bootstrap percentile interval.

    Raises
    ------
    ValueError : a value is not finite.

    References
    ----------
    Efron, Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    return _interval(values, lambda known: bootstrap_means(known, resamples, seed, *ids))


def _interval(values: Values, resampled: Callable[[Values], Values]) -> Interval:
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("an interval needs finite values")
    low = high = None
    if len(values) > 1:
        low, high = np.quantile(resampled(values), TAILS).tolist()
    mean = float(values.mean()) if len(values) else None
    return Interval(value=mean, low=low, high=high, n=len(values))


def hierarchical_means(
    values: Values, groups: NDArray[np.int64], resamples: int, seed: int, *ids: int
) -> Values:
    """Return the means of resamples of groups, each of which is resampled in turn.

    Images of one device resemble each other more than images of different devices. Resampling
    images alone would treat them as independent, and the interval would be too narrow.

    Parameters
    ----------
    values : (n,) or (n, k) observations; columns share their resamples and are therefore paired.
    groups : (n,) the group of each observation, for example its device.

    Returns
    -------
    (resamples,) or (resamples, k).

    References
    ----------
    Davison, Hinkley, Bootstrap Methods and their Application, 1997, section 3.8.
    """
    values = np.asarray(values, dtype=np.float64)
    rng = seeds.generator(seed, "hierarchical bootstrap", *ids)
    rows = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(groups[rows], return_index=True, return_counts=True)
    means = np.empty((resamples, *values.shape[1:]))
    for index in range(resamples):
        picks = rng.integers(0, len(sizes), len(sizes))
        size, start = (np.repeat(each[picks], sizes[picks]) for each in (sizes, starts))
        drawn = rows[start + (rng.random(len(size)) * size).astype(int)]
        means[index] = values[drawn].mean(axis=0)
    return means


def hierarchical_interval(
    values: Values, groups: NDArray[np.int64], resamples: int, seed: int, *ids: int
) -> Interval:
    """Return the mean of ``values`` (n,) with its hierarchical bootstrap percentile interval.

    Differences of two arms over the same victims give the paired interval. Arguments as in
    ``hierarchical_means``; ``n`` counts observations.

    Raises
    ------
    ValueError : a value is not finite.
    """
    return _interval(values, lambda known: hierarchical_means(known, groups, resamples, seed, *ids))
