"""All requests of all seeds, and their hierarchical bootstrap: seeds, their devices, the images.

Every arm of the comparison is estimated from one set of resamples. Two arms are thereby paired:
over the victims that both answered, and over the drawn seeds and devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.compare.analysis.comparable import requests_of
from testbed.compare.analysis.runs import Run
from testbed.core.seeds import generator
from testbed.privacy.intervals import TAILS, Interval

Values = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class RequestTable:
    """Requests of all seeds, one row each.

    Attributes
    ----------
    seeds : the seeds, ascending.
    seed_of, device_of, request_of : (n,) place of the seed in ``seeds``, device and request.
    """

    seeds: list[int]
    seed_of: Places
    device_of: Places
    request_of: Places

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.seed_of)

    def places(self, seed: int, requests: Values) -> Places:
        """Return the rows of some requests of one seed; -1 for those that were never made."""
        rows = np.flatnonzero(self.seed_of == self.seeds.index(seed))
        known = self.request_of[rows]  # ascending
        asked = requests.astype(np.int64)
        at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        return np.where(known[at] == asked, rows[at], -1)


def request_table_of(runs: Sequence[Run]) -> RequestTable:
    """Collect the requests of every seed once; runs of one seed have the same."""
    by_seed = {run.seed: run for run in reversed(runs)}
    seeds = sorted(by_seed)
    tables = [requests_of(by_seed[seed]) for seed in seeds]
    return RequestTable(
        seeds=seeds,
        seed_of=np.repeat(np.arange(len(seeds)), [len(table[0]) for table in tables]),
        device_of=np.concatenate([table[1] for table in tables]),
        request_of=np.concatenate([table[0] for table in tables]),
    )


@dataclass(frozen=True)
class Column:
    """One value for each of some requests: ``places`` in the table, and ``values``."""

    places: Places
    values: Values

    def __len__(self) -> int:
        """Return the number of values."""
        return len(self.values)

    def only(self, keep: NDArray[np.bool_]) -> "Column":
        """Return the values where ``keep`` is true."""
        return Column(self.places[keep], self.values[keep])

    def minus(self, other: "Column") -> "Column":
        """Return the differences on the requests that both have."""
        shared, mine, its = np.intersect1d(self.places, other.places, return_indices=True)
        return Column(shared, self.values[mine] - other.values[its])


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, and its value in every resample."""

    shown: Interval
    samples: Values


@dataclass(frozen=True)
class Resamples:
    """How often each request, and each seed, is in each resample.

    Attributes
    ----------
    requests : (resamples, n) counts.
    seeds : (resamples, number of seeds) counts.
    """

    requests: Values
    seeds: Values

    def means(self, column: Column) -> Values:
        """Return the mean of a column in every resample, NaN where it has none of its requests."""
        if not len(column):
            return np.full(len(self.requests), np.nan)
        counts = self.requests[:, column.places]
        with np.errstate(invalid="ignore", divide="ignore"):
            means: Values = (counts @ column.values) / counts.sum(axis=1)
        return means

    def mean(self, column: Column) -> Estimate:
        """Estimate the mean of a column."""
        samples = self.means(column)
        return Estimate(mean_interval(column, samples), samples)

    def percentile(self, column: Column, percent: float) -> Estimate:
        """Estimate a percentile of a column."""
        value = float(np.percentile(column.values, percent)) if len(column) else None
        samples = self.percentiles(column, percent)
        return Estimate(interval(value, samples, len(column)), samples)

    def mean_over_seeds(self, values: Sequence[float | None], seeds: Sequence[int]) -> Estimate:
        """Estimate the mean of one value per seed; seeds without a value are left out."""
        known = [
            (value, seed) for value, seed in zip(values, seeds, strict=True) if value is not None
        ]
        if not known:
            return Estimate(Interval(n=0), np.full(len(self.seeds), np.nan))
        samples = self.over_seeds([value for value, _ in known], [seed for _, seed in known])
        mean = float(np.mean([value for value, _ in known]))
        return Estimate(interval(mean, samples, len(known)), samples)

    def percentiles(self, column: Column, percent: float) -> Values:
        """Return a percentile, linearly interpolated, of a column in every resample."""
        if not len(column):
            return np.full(len(self.requests), np.nan)
        order = np.argsort(column.values, kind="stable")
        ordered = column.values[order]
        up_to = np.cumsum(self.requests[:, column.places[order]], axis=1)
        total = up_to[:, -1]
        position = np.maximum(total - 1, 0) * percent / 100.0
        floor = np.floor(position)
        below = ordered[np.argmax(up_to > floor[:, None], axis=1)]
        above = ordered[np.argmax(up_to > np.minimum(floor + 1, total - 1)[:, None], axis=1)]
        found: Values = below + (position - floor) * (above - below)
        return np.where(total > 0, found, np.nan)

    def over_seeds(self, values: Sequence[float], seeds: Sequence[int]) -> Values:
        """Return the mean of one value per seed (places of seeds given) in every resample."""
        counts = self.seeds[:, list(seeds)]
        with np.errstate(invalid="ignore", divide="ignore"):
            means: Values = (counts @ np.asarray(values, np.float64)) / counts.sum(axis=1)
        return means


def resample(request_table: RequestTable, resamples: int, seed: int = 0) -> Resamples:
    """Draw seeds, then devices of each drawn seed, then images of each drawn device.

    Only the counts are drawn: how often something is among m draws with replacement from k things
    is multinomial. One set of counts serves all arms.

    References
    ----------
    Davison, Hinkley, Bootstrap Methods and their Application, 1997, section 3.8.
    """
    rng = generator(seed, "comparison")
    number = len(request_table.seeds)
    per_seed = rng.multinomial(number, np.full(number, 1.0 / number), size=resamples)
    counts = np.zeros((resamples, len(request_table)))
    for index in range(number):
        rows = np.flatnonzero(request_table.seed_of == index)
        devices, device = np.unique(request_table.device_of[rows], return_inverse=True)
        k = len(devices)
        per_device = rng.multinomial(per_seed[:, index] * k, np.full(k, 1.0 / k))
        for place in range(k):
            own = rows[device == place]
            even = np.full(len(own), 1.0 / len(own))
            counts[:, own] = rng.multinomial(per_device[:, place] * len(own), even)
    return Resamples(counts, per_seed.astype(np.float64))


def interval(value: float | None, samples: Values, n: int) -> Interval:
    """Return an estimate with the percentile interval of its resamples.

    Resamples in which it has no value are left out. Without two observations there is no interval.
    """
    if value is None or not np.isfinite(value):
        return Interval(n=n)
    known = samples[np.isfinite(samples)]
    if n < 2 or not len(known):
        return Interval(value=value, n=n)
    if np.allclose(known, value, rtol=1e-12, atol=0.0):  # a constant, but for rounding
        return Interval(value=value, low=value, high=value, n=n)
    low, high = np.quantile(known, TAILS).tolist()
    return Interval(value=value, low=low, high=high, n=n)


def mean_interval(column: Column, samples: Values) -> Interval:
    """Return the mean of a column with its interval."""
    value = float(column.values.mean()) if len(column) else None
    return interval(value, samples, len(column))
