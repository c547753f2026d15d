"""The size of a Flower message on the wire, without serialising it.

Serialising a message to its protocol buffer copies every array half a dozen times; the size follows
from the lengths of the arrays.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from flwr.app import ArrayRecord, Message, Metadata, RecordDict
from flwr.common.serde import recorddict_to_proto
from flwr.common.serde_utils import error_to_proto
from flwr.proto.recorddict_pb2 import Array as ProtoArray

from testbed.wire.arrays import data_bytes

DOUBLE = 9
"""Bytes of a field of 8 bytes and its tag."""
UNSIGNED_FROM = 2**63
"""Flower writes integers from this one on as unsigned."""


def serialised_bytes(message: Message) -> int:
    """Return the size of the message's protocol buffer, in bytes."""
    size = _field(_metadata(message.metadata))
    if message.has_error():
        size += _field(int(error_to_proto(message.error).ByteSize()))
    return size + _field(_content(message.content)) if message.has_content() else size


def _metadata(metadata: Metadata) -> int:
    source, destination = metadata.src_task_id, metadata.dst_task_id
    return (
        _text(metadata.message_id)
        + _text(metadata.reply_to_message_id)
        + _text(metadata.group_id)
        + _text(metadata.message_type)
        + _number(metadata.run_id)
        + _number(metadata.src_node_id)
        + _number(metadata.dst_node_id)
        + (0 if source is None else 1 + _varint(source))
        + (0 if destination is None else 1 + _varint(destination))
        + (DOUBLE if metadata.ttl else 0)
        + (DOUBLE if metadata.created_at else 0)
    )


def _content(content: RecordDict) -> int:
    size = 0
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            size += _field(_text(name) + _field(_arrays(record)))
        else:
            scalars = _scalars(record.items())
            if scalars is None:
                size += int(recorddict_to_proto(RecordDict({name: record})).ByteSize())
            else:
                size += _field(_text(name) + _field(scalars))
    return size


def _scalars(items: Iterable[tuple[str, Any]]) -> int | None:
    """Return the bytes of metrics or settings in their record; None where one is a list."""
    size = 0
    for name, value in items:
        if isinstance(value, bool):
            taken = 2
        elif isinstance(value, int):
            taken = 1 + _varint(_zigzag(value) if value < UNSIGNED_FROM else value)
        elif isinstance(value, float):
            taken = DOUBLE
        elif isinstance(value, str):
            taken = _field(len(value.encode()))
        elif isinstance(value, bytes):
            taken = _field(len(value))
        else:
            return None
        size += _field(_text(name) + _field(taken))
    return size


def _arrays(record: ArrayRecord) -> int:
    return sum(
        _array(name, array.dtype, tuple(array.shape), array.stype, data_bytes(array))
        for name, array in record.items()
    )


@lru_cache(maxsize=4096)
def _array(name: str, dtype: str, shape: tuple[int, ...], stype: str, length: int) -> int:
    """Return the bytes of one array in its record."""
    described = int(ProtoArray(dtype=dtype, shape=shape, stype=stype).ByteSize())
    return _field(_text(name) + _field(described + (_field(length) if length else 0)))


def _text(value: str) -> int:
    return _field(len(value.encode())) if value else 0


def _field(length: int) -> int:
    """Return the bytes of a field: one byte of tag, its length as a varint, its content."""
    return 1 + _varint(length) + length


def _number(value: int) -> int:
    return 1 + _varint(value) if value else 0


def _varint(value: int) -> int:
    """Return the bytes of a whole number: each holds 7 bits."""
    return max(1, -(-value.bit_length() // 7))


def _zigzag(value: int) -> int:
    """Return the zigzag code of a signed number: 0, -1, 1, -2 become 0, 1, 2, 3."""
    return 2 * value if value >= 0 else -2 * value - 1
