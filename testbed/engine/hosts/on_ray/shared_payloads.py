"""Payloads of shards: large contents that several shards share travel once, beside them.

The front-end's weights are one record that every device of a cohort receives. A payload leaves such
records out and refers to them by number. The backend puts each record into the object store once,
and it reaches every node once, independent of the number of shards and hosts.
"""

import copy
import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from numpy.typing import NDArray
from ray import cloudpickle

from testbed.wire.arrays import data_bytes

STORED_FROM_BYTES = 1 << 18
"""Smaller contents travel with every shard: storing and fetching one takes longer than copying."""

Packed = tuple[bytes, list[NDArray[np.uint8]]]


def packed(value: Any) -> Packed:
    """Pickle a value, with its large arrays beside it.

    Ray pickles with a function in Python for every object, which takes three times as long for many
    messages.
    """
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return content, [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]


def unpacked(value: Packed) -> Any:
    """Return the value; its large arrays share the memory of the packed one."""
    content, buffers = value
    return cloudpickle.loads(content, buffers=buffers)


@dataclass(frozen=True)
class ShardPayload:
    """The messages of one shard, without the contents that they share with other shards.

    Attributes
    ----------
    messages : as sent, but empty if the content was left out.
    shared : per message, the number of its content among the shared ones; None if it has its own.
    """

    messages: list[Message]
    shared: list[int | None]

    def unpack(self, contents: Sequence[RecordDict]) -> list[Message]:
        """Return the complete messages; those that shared a content share one object again."""
        for message, number in zip(self.messages, self.shared, strict=True):
            if number is not None:
                message.content = contents[number]
        return self.messages


def shared_contents(shards: Sequence[Sequence[Message]]) -> dict[int, RecordDict]:
    """Return the large contents that messages of several shards share, by identity."""
    in_shards: Counter[int] = Counter()
    contents: dict[int, RecordDict] = {}
    for shard in shards:
        own = {id(message.content): message.content for message in shard}
        contents |= own
        in_shards.update(list(own))
    return {
        key: contents[key]
        for key, count in in_shards.items()
        if count > 1 and _bytes(contents[key]) >= STORED_FROM_BYTES
    }


def _bytes(content: RecordDict) -> int:
    records = [record for record in content.values() if isinstance(record, ArrayRecord)]
    return sum(data_bytes(array) for record in records for array in record.values())


def pack(
    messages: Sequence[Message], shared: Mapping[int, object]
) -> tuple[ShardPayload, list[int]]:
    """Return one shard's payload, and the keys of the shared contents it needs, in order."""
    places: dict[int, int] = {}
    empty = RecordDict()
    packed: list[Message] = []
    numbers: list[int | None] = []
    for message in messages:
        key = id(message.content)
        if key in shared:
            numbers.append(places.setdefault(key, len(places)))
            message = copy.copy(message)
            message.content = empty
        else:
            numbers.append(None)
        packed.append(message)
    return ShardPayload(packed, numbers), list(places)
