"""All requests of all seeds, and estimates whose unit is the outermost thing that varies.

Over several seeds the unit is the seed: trainings, fleets and splits differ. Within one seed it is
the device, on one device the request. A unit is kept whole: the variation between units contains
the variation inside them.

A comparison has few seeds, too few to resample. Every resample therefore moves an estimate by its
standard error times one draw from Student's t, made of one normal number per unit. All arms share
these numbers. Two arms are thereby paired, and a difference of two has again a t distribution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from testbed.compare.analysis.comparable import requests_of
from testbed.compare.analysis.runs import Run
from testbed.core.seeds import generator
from testbed.privacy.intervals import (
    TAILS,
    Interval,
    least_interval,
    mean_interval,
    share_difference_interval,
    share_interval,
    student_t,
)

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


Unit = Literal["seed", "device", "request"]
Kind = Literal["mean", "difference", "share", "difference of shares"]


@dataclass(frozen=True)
class Resamples:
    """Draws that all arms share, and estimates from them.

    Attributes
    ----------
    size : number of resamples.
    """

    table: RequestTable
    size: int
    seed: int = 0
    _normals: dict[Unit, Values] = field(default_factory=dict)

    def mean(self, column: Column, kind: Kind = "mean") -> Estimate:
        """Estimate the mean of a column, or the share of hits in it."""
        if not len(column):
            return self._unknown(0)
        unit, places = self._units(column)
        if kind == "share":
            inner = np.stack([self.table.seed_of, self.table.device_of], axis=1)[column.places]
            devices = len(np.unique(inner, axis=0))
            shown = share_interval(column.values, places, devices if unit == "seed" else None)
        elif kind == "difference of shares":
            shown = share_difference_interval(column.values, places)
        else:
            shown = mean_interval(
                column.values,
                self.size,
                self.seed,
                clusters=places,
                difference=kind == "difference",
            )
        mean = float(column.values.mean())
        known, within = np.unique(places, return_inverse=True)
        sums = np.bincount(within, column.values - mean)
        return Estimate(shown, self._moved(mean, unit, known, sums / len(column)))

    def least(self, own: Interval, columns: Sequence[Column]) -> Interval:
        """Return the interval of the least of several means that was chosen as such."""
        values = np.concatenate([column.values for column in columns])
        places = np.concatenate([column.places for column in columns])
        _, units = self._units(Column(places, values))
        cuts = np.cumsum([len(column) for column in columns])[:-1]
        parts = zip(np.split(values, cuts), np.split(units, cuts), strict=True)
        return least_interval(own, list(parts), self.size, self.seed)

    def percentile(self, column: Column, percent: float) -> Estimate:
        """Estimate a percentile of a column."""
        if not len(column):
            return self._unknown(0)
        value = float(np.percentile(column.values, percent))
        unit, places = self._units(column)
        if unit != "seed":
            samples = self.percentiles(column, places, percent)
            return Estimate(interval(value, samples, len(column)), samples)
        known = np.unique(places)
        each = np.array([np.percentile(column.values[places == at], percent) for at in known])
        return self._of_seeds(value, each, known, len(column))

    def mean_over_seeds(self, values: Sequence[float | None], seeds: Sequence[int]) -> Estimate:
        """Estimate the mean of one value per seed; seeds without a value are left out."""
        pairs = [(v, seed) for v, seed in zip(values, seeds, strict=True) if v is not None]
        if not pairs:
            return self._unknown(0)
        each, known = np.array([v for v, _ in pairs]), np.array([seed for _, seed in pairs])
        return self._of_seeds(float(each.mean()), each, known, len(pairs))

    def percentiles(self, column: Column, places: Places, percent: float) -> Values:
        """Return a percentile, linearly interpolated, of a column in resamples of its units."""
        known, within = np.unique(places, return_inverse=True)
        rng = generator(self.seed, "comparison percentiles")
        even = np.full(len(known), 1.0 / len(known))
        times = rng.multinomial(len(known), even, size=self.size)
        order = np.argsort(column.values, kind="stable")
        ordered = column.values[order]
        up_to = np.cumsum(times[:, within[order]], axis=1)
        total = up_to[:, -1]
        position = np.maximum(total - 1, 0) * percent / 100.0
        floor = np.floor(position)
        below = ordered[np.argmax(up_to > floor[:, None], axis=1)]
        above = ordered[np.argmax(up_to > np.minimum(floor + 1, total - 1)[:, None], axis=1)]
        found: Values = below + (position - floor) * (above - below)
        return found

    def _unknown(self, n: int) -> Estimate:
        return Estimate(Interval(n=n), np.full(self.size, np.nan))

    def _of_seeds(self, value: float, each: Values, known: Places, n: int) -> Estimate:
        """Estimate a number that is known per seed; ``value`` may differ from their mean."""
        count = len(each)
        if count < 2:
            return Estimate(Interval(value=value, n=n), np.full(self.size, value))
        half = student_t(count - 1) * float(each.std(ddof=1)) / math.sqrt(count)
        low = value - half if float(each.min()) < 0.0 else max(0.0, value - half)
        shown = Interval(value=value, low=low, high=value + half, n=n)
        return Estimate(shown, self._moved(value, "seed", known, (each - each.mean()) / count))

    def _units(self, column: Column) -> tuple[Unit, Places]:
        """Return the outermost unit of which the column has several, and that of each value."""
        levels: tuple[tuple[Unit, Places], ...] = (
            ("seed", self.table.seed_of),
            ("device", self.table.device_of),
        )
        for unit, of_all in levels:
            places = of_all[column.places]
            if (places != places[0]).any():
                return unit, places
        return "request", column.places

    def _moved(self, value: float, unit: Unit, known: Places, parts: Values) -> Values:
        """Return the value in every resample.

        Parameters
        ----------
        known, parts : the units, and what each contributes to the deviation from the value.
        """
        count = len(known)
        if count < 2:
            return np.full(self.size, value)
        if unit not in self._normals:
            everything = {
                "seed": len(self.table.seeds),
                "device": int(self.table.device_of.max()) + 1,
                "request": len(self.table),
            }
            rng = generator(self.seed, f"comparison {unit}")
            self._normals[unit] = rng.standard_normal((self.size, everything[unit]))
        uniform = generator(self.seed, "comparison spread").random(self.size)
        spread = 2.0 * special.gammaincinv((count - 1) / 2.0, uniform)  # chi-squared
        scale = np.sqrt(count / spread)
        samples: Values = value + scale * (self._normals[unit][:, known] @ parts)
        return samples


def resample(request_table: RequestTable, resamples: int, seed: int = 0) -> Resamples:
    """Return the draws of a comparison."""
    return Resamples(request_table, resamples, seed)


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
