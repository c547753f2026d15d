"""Keeps the trained arrays of replies in a host's process, where they are added up or fetched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from numpy.typing import NDArray

from testbed.core.errors import HostError
from testbed.wire.arrays import as_numpy, lent
from testbed.wire.held import WEIGHTS, Description, describe, hold
from testbed.wire.protocol import METRICS, MOMENTS, NUM_EXAMPLES
from testbed.wire.records import record_in, record_of
from testbed.wire.sums import Layout, Places, Sums, add_up, sums_of

Records = dict[str, ArrayRecord]
Shard = tuple[list[str], list[int]]
"""Keys of the replies of a shard, and their weights."""
Values = NDArray[np.float32]

LARGEST_ROW = 1 << 17
"""Elements of a reply up to which its shard is added up beforehand: 1 MiB of sums travel."""


class _Rows:
    """Replies of one layout as rows of a matrix (capacity, columns).

    Small arrays that outlive the large ones around them leave the heap full of holes: kept as they
    were computed, a shard's arrays take several times their size. One operation on a device's row
    checks all of its arrays, or adds them up.

    Attributes
    ----------
    sound : keys, rows and weights of the replies that the server may accept.
    finite : the descriptions of a reply whose arrays are finite, once there was one.
    """

    def __init__(self, layout: Layout, capacity: int) -> None:
        self.layout = layout
        self.sound: list[tuple[str, Values, int]] = []
        self.finite: dict[str, Description] | None = None
        self._matrix = np.empty((capacity, layout.columns), np.float32)
        self._filled = 0

    def append(self, arrays: Sequence[Values]) -> Values:
        """Copy a reply's arrays into the next row, and return it."""
        row: Values = self._matrix[self._filled]
        self._filled += 1
        self.layout.fill(row, arrays)
        return row


@dataclass(frozen=True)
class _Kept:
    """A reply's arrays as a row.

    Attributes
    ----------
    names : of the records, which may be empty.
    """

    names: tuple[str, ...]
    layout: Layout
    row: Values

    def records(self) -> Records:
        """Return the arrays as records."""
        split = self.layout.split(self.row)
        return {
            record: record_of({name: lent(v) for name, v in split.get(record, {}).items()})
            for record in self.names
        }


class ShardReplies:
    """Keeps the arrays of one shard's replies, device by device.

    Parameters
    ----------
    devices : how many there are.

    Attributes
    ----------
    kept : by the key of the reply: rows, or records of arrays that are not all of float32.
    """

    def __init__(self, devices: int) -> None:
        self.kept: dict[str, _Kept | Records] = {}
        self._left = devices
        self._rows: dict[Places, _Rows] = {}

    def keep(self, message: Message, reply: Message) -> None:
        """Keep the arrays of a reply; put descriptions in their place."""
        found = _trained(reply)
        if found:
            key = f"{message.metadata.dst_node_id} {message.metadata.message_id}"
            arrays = _floats(found)
            if arrays is None:
                self.kept[key] = found
                descriptions = {name: describe(record, name) for name, record in found.items()}
            else:
                descriptions = self._as_row(key, found, arrays, _weight(reply))
            content = reply.content.copy()  # it may be the one that the device was sent
            for name, description in descriptions.items():
                content[name] = hold(key, name, description)
            reply.content = content
        self._left -= 1

    def _as_row(
        self, key: str, found: Records, arrays: Mapping[tuple[str, str], Values], weight: int
    ) -> dict[str, Description]:
        places = tuple((*name, values.shape) for name, values in arrays.items())
        if places not in self._rows:
            self._rows[places] = _Rows(Layout.of(places), self._left)
        rows = self._rows[places]
        row = rows.append(list(arrays.values()))
        kept = self.kept[key] = _Kept(tuple(found), rows.layout, row)
        finite = bool(np.isfinite(row).all())
        if finite and rows.finite is not None and MOMENTS not in found:
            descriptions = rows.finite
        else:
            descriptions = {n: describe(record, n) for n, record in kept.records().items()}
            rows.finite = descriptions if finite else rows.finite
        if weight > 0 and all(of.sound for of in descriptions.values()):
            rows.sound.append((key, row, weight))
        return descriptions

    def made(self) -> list[tuple[Shard, Sums]]:
        """Return the sums of the sound replies with a weight, by layout, where they are small."""
        made = []
        for rows in self._rows.values():
            if rows.sound and rows.layout.columns <= LARGEST_ROW:
                keys, of, weights = (list(column) for column in zip(*rows.sound, strict=True))
                made.append(((keys, weights), sums_of(rows.layout, of, weights)))
        return made


class HeldReplies:
    """The trained arrays of one host's replies, by exchange and key.

    The key of a reply is the message that it answers, which a replacement of the host repeats.
    """

    def __init__(self) -> None:
        self._of: dict[int, dict[str, _Kept | Records]] = {}

    def keep(self, exchange: int, kept: Mapping[str, _Kept | Records]) -> None:
        """Keep what a shard's devices trained."""
        if kept:
            self._of.setdefault(exchange, {}).update(kept)

    def keep_only(self, exchanges: Sequence[int]) -> None:
        """Drop the arrays of all other exchanges."""
        for exchange in set(self._of) - set(exchanges):
            del self._of[exchange]

    def add_up(self, exchange: int, shards: Sequence[Shard]) -> list[Sums]:
        """Return the sums of each shard; its arrays are gone then.

        Raises
        ------
        HostError : a host died after another exchange, and this one cannot be repeated.
        """
        if exchange not in self._of:
            raise HostError("the arrays of its replies are gone with the process before it")
        arrays = self._of[exchange]
        sums = []
        for keys, weights in shards:
            sums.append(_added_up([arrays.pop(key) for key in keys], weights))
        return sums

    def take(self, exchange: int) -> dict[str, Records]:
        """Return the arrays of an exchange, which are gone then."""
        kept = self._of.pop(exchange, {})
        return {key: _records(of) for key, of in kept.items()}


def _added_up(kept: Sequence[_Kept | Records], weights: Sequence[int]) -> Sums:
    """Return the sums over replies: by rows if all have the same layout."""
    rows = [of for of in kept if isinstance(of, _Kept)]
    if len(rows) < len(kept) or any(of.layout.places != rows[0].layout.places for of in rows):
        return add_up([_records(of) for of in kept], weights)
    return sums_of(rows[0].layout, [of.row for of in rows], weights)


def _records(kept: _Kept | Records) -> Records:
    return kept.records() if isinstance(kept, _Kept) else kept


def _trained(reply: Message) -> Records:
    """Return a reply's records of arrays that the host keeps."""
    if not reply.has_content():
        return {}
    found = {name: record_in(reply.content, name, ArrayRecord) for name in WEIGHTS}
    return {name: record for name, record in found.items() if record is not None}


def _floats(records: Records) -> dict[tuple[str, str], Values] | None:
    """Return all arrays by record and name; None if one cannot be read or is not of float32."""
    arrays = {}
    for record, of in records.items():
        for name, array in of.items():
            try:
                values = as_numpy(array)
            except (ValueError, TypeError):  # no array in NumPy's file format, or not of numbers
                return None
            if values.dtype != np.float32:
                return None
            arrays[record, name] = values
    return arrays


def _weight(reply: Message) -> int:
    """Return the training images that a device says it holds; 0 if it does not say."""
    metrics = record_in(reply.content, METRICS, MetricRecord)
    value = metrics.get(NUM_EXAMPLES) if metrics is not None else None
    return value if isinstance(value, int) else 0
