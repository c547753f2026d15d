"""Confidence intervals of means and shares over victims, of which some may belong together.

Observations of one cluster (images of a person, requests of a device) resemble each other. Clusters
are the units: each is kept whole, and only the variation between clusters counts, which contains
the variation inside.

- Means (errors are skewed): bootstrap-t, which resamples clusters and divides every resampled mean
  by its own standard error. With fewer than ``FEWEST_RESAMPLED`` clusters Student's t.
- Shares: Clopper and Pearson, which covers at least as often as stated, also where all or none are
  hits; with clusters for the effective number of observations.
- Paired differences of two shares: Agresti and Min, whose width is not 0 where no pair differs.

``benchmarks/interval_coverage.py`` measures how often they cover.

References
----------
Efron, Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5 (bootstrap-t). Clopper,
Pearson, Biometrika 26, 1934. Korn, Graubard, Survey Methodology 24(2), 1998, section 2 (clusters).
Agresti, Min, Statistics in Medicine 24, 2005, section 3. Davison, Hinkley, Bootstrap Methods and
their Application, 1997, section 3.8 (clusters are kept whole).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from testbed.core import seeds

LEVEL = 0.95
TAILS = [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0]
FEWEST_RESAMPLED = 8
_MAX_DRAWS = 4_000_000

Values = NDArray[np.float64]
Clusters = NDArray[Any]


class Interval(BaseModel):
    """A mean or share over ``n`` observations (victims) with its 95 % confidence interval.

    ``low`` and ``high`` are None with fewer than two observations, or fewer than two clusters.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0


def student_t(degrees: float) -> float:
    """Return the two-sided 95 % quantile of Student's t distribution."""
    from scipy import special  # slow to import

    return float(special.stdtrit(degrees, TAILS[1]))


def mean_interval(
    values: Values,
    resamples: int,
    seed: int,
    *ids: int,
    clusters: Clusters | None = None,
    difference: bool = False,
) -> Interval:
    """Return the mean of ``values`` (n,) with its bootstrap-t interval.

    Parameters
    ----------
    clusters : (n,) what each observation belongs to; None: each is by itself.
    difference : whether the mean may be below 0 where no value is.

    Raises
    ------
    ValueError : a value is not finite.
    """
    values = _finite(values)
    if not len(values):
        return Interval()
    mean = float(values.mean())
    sums, sizes = _cluster_sums(values - mean, clusters)
    count = len(sums)
    if count < 2:
        return Interval(value=mean, n=len(values))
    error = _standard_error(sums, len(values))
    quantiles = None
    if count >= FEWEST_RESAMPLED and error > 0.0:
        drawn = _studentised(sums, sizes, resamples, seeds.generator(seed, "bootstrap", *ids))
        found = np.quantile(drawn, TAILS, method="inverted_cdf")
        if np.isfinite(found).all():
            quantiles = found.tolist()
    lowest, highest = quantiles or (-student_t(count - 1), student_t(count - 1))
    low, high = mean - highest * error, mean - lowest * error
    if not difference and float(values.min()) >= 0.0:
        low = max(0.0, low)
    return Interval(value=mean, low=low, high=high, n=len(values))


def least_interval(
    own: Interval, columns: Sequence[tuple[Values, Clusters]], resamples: int, seed: int
) -> Interval:
    """Return the interval of a mean that was chosen as the least of several.

    The least of several means is too low on average. All means are taken on the same resamples of
    the clusters; the interval is as many standard errors wide as covers all of them at once
    (simultaneous bootstrap-t), and never narrower than the chosen mean's own.

    Parameters
    ----------
    own : of the least mean.
    columns : values and clusters of every candidate; candidates may have different observations.
    """
    if own.value is None or own.low is None or own.high is None or len(columns) < 2:
        return own
    units = np.unique(np.concatenate([clusters for _, clusters in columns]))
    rng = seeds.generator(seed, "bootstrap of the least")
    even = np.full(len(units), 1.0 / len(units))
    times = rng.multinomial(len(units), even, size=resamples).astype(np.float64)
    above, below, error = np.zeros(resamples), np.zeros(resamples), 0.0
    for values, clusters in columns:
        mean, places = float(_finite(values).mean()), np.searchsorted(units, clusters)
        sums = np.bincount(places, values - mean, len(units)).astype(np.float64)
        sizes = np.bincount(places, minlength=len(units)).astype(np.float64)
        seen = int((sizes > 0.0).sum())
        if seen < 2:
            continue
        drawn = np.maximum(times @ sizes, 1.0)
        moved = (times @ sums) / drawn
        squares = times @ np.square(sums) - 2.0 * moved * (times @ (sums * sizes))
        squares += np.square(moved) * (times @ np.square(sizes))
        errors = np.sqrt(seen / (seen - 1) * np.maximum(squares, 0.0)) / drawn
        shifts = np.divide(moved, errors, out=np.zeros(resamples), where=errors > 0.0)
        above, below = np.maximum(above, shifts), np.maximum(below, -shifts)
        if mean == own.value:
            error = _standard_error(sums[sizes > 0.0], len(values))
    low = max(0.0, min(own.low, own.value - error * float(np.quantile(above, TAILS[1]))))
    high = max(own.high, own.value + error * float(np.quantile(below, TAILS[1])))
    return Interval(value=own.value, low=low, high=high, n=own.n)


def share_interval(
    hits: NDArray[Any], clusters: Clusters | None = None, constant_count: int | None = None
) -> Interval:
    """Return the share of ``hits`` (n,), 0 or 1, with its Clopper-Pearson interval.

    Parameters
    ----------
    clusters : as in ``mean_interval``.
    constant_count : independent observations to count where all values are equal, so that the
        clusters do not differ; None: the number of clusters.

    Raises
    ------
    ValueError : a value is neither 0 nor 1.
    """
    values = _finite(hits)
    if not np.isin(values, (0.0, 1.0)).all():
        raise ValueError("a share needs values of 0 and 1")
    count = len(values)
    if not count:
        return Interval()
    share = float(values.mean())
    if count < 2:
        return Interval(value=share, n=count)
    sums, _ = _cluster_sums(values - share, clusters)
    if len(sums) < 2:
        return Interval(value=share, n=count)
    independent = float(count)
    if clusters is not None and len(sums) < count:
        error = _standard_error(sums, count)
        if 0.0 < share < 1.0:
            ratio = (student_t(count - 1) / student_t(len(sums) - 1)) ** 2
            spread = max(error**2, 1e-300)
            independent = min(float(count), ratio * share * (1.0 - share) / spread)
        else:
            independent = float(len(sums) if constant_count is None else constant_count)
    low, high = clopper_pearson(share * independent, independent)
    return Interval(value=share, low=low, high=high, n=count)


def clopper_pearson(hits: float, count: float) -> tuple[float, float]:
    """Return the exact 95 % interval of a share; ``count`` need not be whole."""
    from scipy import special  # slow to import

    misses = count - hits
    low = float(special.betaincinv(hits, misses + 1.0, TAILS[0])) if hits > 0.0 else 0.0
    high = float(special.betaincinv(hits + 1.0, misses, TAILS[1])) if misses > 0.0 else 1.0
    return low, high


def share_difference_interval(values: Values, clusters: Clusters | None = None) -> Interval:
    """Return the mean of differences of hits (n,), each -1, 0 or 1, with its Agresti-Min interval.

    Half a pair is added to each of the four outcomes. With clusters, the variance is enlarged by
    their design effect, if that is above 1, and Student's t stands for the normal quantile.

    Raises
    ------
    ValueError : a value is not finite.
    """
    values = _finite(values)
    if not len(values):
        return Interval()
    count, mean = len(values), float(values.mean())
    sums, _ = _cluster_sums(values - mean, clusters)
    if count < 2 or len(sums) < 2:
        return Interval(value=mean, n=count)
    gained, lost = float((values > 0.0).sum()), float((values < 0.0).sum())
    centre = (gained - lost) / (count + 2.0)
    variance = ((gained + lost + 1.0) - (gained - lost) ** 2 / (count + 2.0)) / (count + 2.0) ** 2
    alone = _standard_error(values - mean, count) ** 2
    together = _standard_error(sums, count) ** 2
    effect = max(1.0, together / alone) if alone > 0.0 else count / len(sums)
    half = student_t(len(sums) - 1) * math.sqrt(variance * effect)
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return Interval(value=mean, low=min(low, mean), high=max(high, mean), n=count)


def _finite(values: NDArray[Any]) -> Values:
    found: Values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError("an interval needs finite values")
    return found


def _cluster_sums(deviations: Values, clusters: Clusters | None) -> tuple[Values, Values]:
    """Return the sum of the deviations of each cluster, and its number of observations."""
    if clusters is None:
        return deviations, np.ones(len(deviations))
    _, places = np.unique(clusters, return_inverse=True)
    sums: Values = np.bincount(places, deviations).astype(np.float64)
    return sums, np.bincount(places).astype(np.float64)


def _standard_error(sums: Values, count: int) -> float:
    """Return the standard error of a mean of ``count`` observations, from clusters' deviations."""
    units = len(sums)
    largest = float(np.abs(sums).max())
    if largest <= 1e-12:  # a constant, but for rounding
        return 0.0
    return math.sqrt(units / (units - 1) * float(np.square(sums).sum())) / count


def _studentised(sums: Values, sizes: Values, resamples: int, rng: np.random.Generator) -> Values:
    """Return (mean* - mean) / error* of resamples of clusters, infinite where error* is 0."""
    units, equal = len(sums), bool((sizes == 1.0).all())
    found = np.empty(resamples)
    rows = max(1, _MAX_DRAWS // units)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        picks = rng.integers(0, units, (stop - start, units))
        drawn = sums[picks]
        size = np.full(len(drawn), float(units)) if equal else sizes[picks].sum(axis=1)
        mean = drawn.sum(axis=1) / size
        drawn -= mean[:, None] if equal else mean[:, None] * sizes[picks]
        error = np.sqrt(units / (units - 1) * np.square(drawn).sum(axis=1)) / size
        with np.errstate(divide="ignore", invalid="ignore"):
            found[start:stop] = np.nan_to_num(mean / error, nan=0.0, posinf=np.inf, neginf=-np.inf)
    return found
