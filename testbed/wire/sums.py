"""Weighted means over devices, added up by shards.

A sum of floating-point numbers depends on its order. Devices are therefore added up in shards of
fixed size, in the order of the devices, and the shards' sums are combined in the order of the
shards: the same bits wherever a shard is added up. Sums are made in double precision and rounded
once, at the end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from testbed.wire.arrays import as_numpy
from testbed.wire.protocol import STATISTICS

Floats = NDArray[np.float64]
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


def add_up(devices: Sequence[Records], weights: Sequence[int]) -> Sums:
    """Return the sums over the devices of one shard, in this order; all have the same arrays."""
    totals = {
        record: _total([device[record] for device in devices], weights) for record in devices[0]
    }
    weight = sum(weights)
    squares: dict[str, Floats] = {}
    for name, total in totals.get(STATISTICS, {}).items():
        mean, squares[name] = total / weight, np.zeros(total.shape)
        for device, share in zip(devices, weights, strict=True):
            distance = as_numpy(device[STATISTICS][name]) - mean
            squares[name] += share * distance * distance
    return Sums(weight, totals, squares)


def _total(records: Sequence[ArrayRecord], weights: Sequence[int]) -> dict[str, Floats]:
    totals: dict[str, Floats] = {}
    for name, first in records[0].items():
        shape = as_numpy(first).shape
        total, product = np.zeros(shape), np.empty(shape)
        for record, weight in zip(records, weights, strict=True):
            np.multiply(as_numpy(record[name]), weight, out=product, dtype=np.float64)
            total += product
        totals[name] = total
    return totals


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
