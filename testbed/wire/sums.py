"""Weighted means over devices, added up by shards.

A sum of floating-point numbers depends on its order. Devices are therefore added up in shards of
fixed size, in the order of the devices, and the shards' sums are combined in the order of the
shards: the same bits wherever a shard is added up. Sums are made in double precision and rounded
once, at the end.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from testbed.wire.arrays import as_numpy
from testbed.wire.protocol import STATISTICS

Floats = NDArray[np.float64]
T = TypeVar("T", bound=np.generic)
Places = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Record, name and shape of each array of a reply."""
Records = Mapping[str, ArrayRecord]
"""The records of arrays in a reply, by name."""


@dataclass(frozen=True)
class Sums:
    """Weighted sums over some devices.

    Attributes
    ----------
    weight : of all devices together.
    totals : by record and name, the sum of weight times array.
    squares : by name in the record of statistics, the sum of weight times squared distance from the
        weighted mean of these devices.
    """

    weight: int
    totals: dict[str, dict[str, Floats]]
    squares: dict[str, Floats]

    def mean(self, record: str) -> dict[str, NDArray[np.float32]]:
        """Return the weighted mean of a record's arrays; empty without the record."""
        totals = self.totals.get(record, {})
        return {
            name: np.asarray(total / self.weight, dtype=np.float32)
            for name, total in totals.items()
        }

    def spread(self, name: str) -> Floats:
        """Return the weighted variance of a statistic between the devices."""
        return np.asarray(self.squares[name] / self.weight)


def shard_numbers(nodes: Sequence[int], shard_size: int) -> dict[int, int]:
    """Return the shard of every node of a cohort: its place in the order of nodes decides."""
    return {node: place // shard_size for place, node in enumerate(sorted(set(nodes)))}


@dataclass(frozen=True)
class Layout:
    """The arrays of a reply in one row, in the order of its records.

    Attributes
    ----------
    slices : the columns of each.
    columns : number of elements of a row.
    statistics : the columns of the batch-norm statistics.
    """

    places: Places
    slices: tuple[slice, ...]
    columns: int
    statistics: slice

    @classmethod
    def of(cls, places: Places) -> "Layout":
        """Return the layout of these arrays."""
        slices, end = [], 0
        statistics = slice(0, 0)
        for record, _, shape in places:
            start, end = end, end + prod(shape)
            slices.append(slice(start, end))
            if record == STATISTICS:
                statistics = slice(start if not statistics.stop else statistics.start, end)
        return cls(places, tuple(slices), end, statistics)

    def fill(self, row: NDArray[Any], arrays: Iterable[NDArray[Any]]) -> None:
        """Write the arrays of a reply, in the layout's order, into a row."""
        for columns, values in zip(self.slices, arrays, strict=True):
            row[columns] = values.reshape(-1)

    def split(self, row: NDArray[T]) -> dict[str, dict[str, NDArray[T]]]:
        """Return a row's arrays by record and name."""
        split: dict[str, dict[str, NDArray[T]]] = {}
        for (record, name, shape), columns in zip(self.places, self.slices, strict=True):
            split.setdefault(record, {})[name] = row[columns].reshape(shape)
        return split


def sums_of(layout: Layout, rows: Iterable[NDArray[Any]], weights: Sequence[int]) -> Sums:
    """Return the sums over the devices of one shard, in this order.

    Parameters
    ----------
    rows : each device's arrays in this layout; read once, one after another.
    """
    total, product = np.zeros(layout.columns), np.empty(layout.columns)
    of_devices: list[Floats] = []
    for row, share in zip(rows, weights, strict=True):
        np.multiply(row, share, out=product, dtype=np.float64)
        total += product
        of_devices.append(row[layout.statistics].astype(np.float64))
    weight, squares = sum(weights), np.zeros(layout.columns)
    mean = total[layout.statistics] / weight
    for statistics, share in zip(of_devices, weights, strict=True):
        distance = statistics - mean
        squares[layout.statistics] += share * distance * distance
    return Sums(weight, layout.split(total), layout.split(squares).get(STATISTICS, {}))


def add_up(devices: Sequence[Records], weights: Sequence[int]) -> Sums:
    """Return the sums over the devices of one shard, in this order; all have the same arrays."""
    layout = Layout.of(
        tuple(
            (record, name, as_numpy(array).shape)
            for record, arrays in devices[0].items()
            for name, array in arrays.items()
        )
    )
    row = np.empty(layout.columns)

    def filled(device: Records) -> Floats:
        layout.fill(row, [as_numpy(device[record][name]) for record, name, _ in layout.places])
        return row

    return sums_of(layout, map(filled, devices), weights)


def combined(shards: Sequence[Sums]) -> Sums:
    """Return the sums over several shards, combined in this order.

    Squared distances from two means are combined by the formula of Chan, Golub and LeVeque (1983),
    which stays exact where the means lie far apart or far from zero.
    """
    merged = shards[0]
    for shard in shards[1:]:
        weight = merged.weight + shard.weight
        squares = {}
        for name, before in merged.squares.items():
            here, there = merged.totals[STATISTICS][name], shard.totals[STATISTICS][name]
            distance = there / shard.weight - here / merged.weight
            share = merged.weight * shard.weight / weight
            squares[name] = before + shard.squares[name] + share * distance * distance
        totals = {
            record: {name: total + shard.totals[record][name] for name, total in arrays.items()}
            for record, arrays in merged.totals.items()
        }
        merged = Sums(weight, totals, squares)
    return merged
