"""Arrays of replies that stay in the process that made them until they are read.

A trained front-end is read by few strategies; a weighted mean needs sums alone, which the process
makes that holds the arrays (``testbed.wire.sums``). The reply then travels with a description of
its arrays, by which the server accepts or refuses it.
"""

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord

from testbed.wire.arrays import as_numpy
from testbed.wire.protocol import ARRAYS, MOMENTS, SECOND_MOMENT, STATISTICS
from testbed.wire.sums import Sums

WEIGHTS = (ARRAYS, STATISTICS, MOMENTS)
"""Records whose arrays are averaged or selected by a strategy, not computed with."""

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Description:
    """What the server must know of a record to accept it.

    Attributes
    ----------
    shapes : names and shapes, in the record's order.
    sound : whether all arrays can be read and are finite, and no second moment is negative.
    """

    shapes: Shapes
    sound: bool


class Holder(Protocol):
    """Reaches the arrays of one exchange's replies, wherever they are."""

    def read(self, key: str) -> dict[str, ArrayRecord]:
        """Return the records of one reply."""

    def add_up(self, shards: Sequence[tuple[list[str], list[int]]]) -> list[Sums] | None:
        """Return the sums of each shard of (keys, weights), and let go of their arrays.

        None: the arrays have been read, or a shard's devices were in several processes.
        """


class HeldArrays(MutableMapping[str, Array]):
    """Stands for a record's arrays; reading one brings all of them here.

    Attributes
    ----------
    holder : None before the reply has arrived.
    """

    def __init__(self, key: str, record: str, description: Description) -> None:
        self.key = key
        self.record = record
        self.description = description
        self.holder: Holder | None = None
        self._arrays: dict[str, Array] | None = None

    def here(self) -> dict[str, Array]:
        """Return the arrays."""
        if self._arrays is None:
            assert self.holder is not None
            self._arrays = dict(self.holder.read(self.key)[self.record].items())
        return self._arrays

    def __getitem__(self, name: str) -> Array:
        return self.here()[name]

    def __setitem__(self, name: str, array: Array) -> None:
        self.here()[name] = array

    def __delitem__(self, name: str) -> None:
        del self.here()[name]

    def __iter__(self) -> Iterator[str]:
        if self._arrays is None:
            return iter([name for name, _ in self.description.shapes])
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self.description.shapes) if self._arrays is None else len(self._arrays)

    def __contains__(self, name: object) -> bool:
        return name in list(self)

    def copy(self) -> dict[str, Array]:
        """Return the arrays as a new dictionary."""
        return dict(self.here())

    def __reduce__(self) -> Any:
        if self.holder is None:  # on the way to the server
            return HeldArrays, (self.key, self.record, self.description)
        return dict, (self.here(),)


def hold(key: str, name: str, description: Description) -> ArrayRecord:
    """Return what stands for the record of this name in a reply, under the reply's key."""
    held = ArrayRecord()
    held.__dict__["_data"] = HeldArrays(key, name, description)
    return held


def held(record: ArrayRecord) -> HeldArrays | None:
    """Return what stands for a record's arrays, or None if it is an ordinary one."""
    data = record.__dict__["_data"]
    return data if isinstance(data, HeldArrays) else None


def describe(record: ArrayRecord, kind: str) -> Description:
    """Describe a record, without reading the arrays of one that is held elsewhere.

    Parameters
    ----------
    kind : its name in the reply.
    """
    stands = held(record)
    if stands is not None:
        return stands.description
    shapes, sound = [], True
    for name, array in record.items():
        try:
            values = as_numpy(array)
            shapes.append((name, values.shape))
            sound = sound and bool(np.isfinite(values).all())
            if kind == MOMENTS and name.startswith(SECOND_MOMENT):
                sound = sound and bool((values >= 0.0).all())
        except (ValueError, TypeError):  # no array in NumPy's file format, or not of numbers
            return _description((), False)
    return _description(tuple(shapes), sound)


@lru_cache(maxsize=256)
def _description(shapes: Shapes, sound: bool) -> Description:
    """Return one object for equal descriptions, so that replies of a shard share it in pickles."""
    return Description(shapes, sound)
