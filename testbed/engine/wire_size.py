"""How many bytes a Flower message takes on the wire, without serialising it.

Composing the protocol buffer of a message copies every array half a dozen times; its size follows
from the arrays' lengths alone.
"""

from functools import lru_cache

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from flwr.common.serde_utils import error_to_proto, metadata_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.recorddict_pb2 import Array as ProtoArray


def serialised_bytes(message: Message) -> int:
    """Return the size of the message's protocol buffer, in bytes."""
    rest = ProtoMessage(
        metadata=metadata_to_proto(message.metadata),
        error=error_to_proto(message.error) if message.has_error() else None,
    )
    size = int(rest.ByteSize())
    return size + _field(_content(message.content)) if message.has_content() else size


def _content(content: RecordDict) -> int:
    size = 0
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            size += _field(_text(name) + _field(_arrays(record)))
        else:
            size += int(recorddict_to_proto(RecordDict({name: record})).ByteSize())
    return size


def _arrays(record: ArrayRecord) -> int:
    return sum(
        _array(name, array.dtype, tuple(array.shape), array.stype, len(array.data))
        for name, array in record.items()
    )


@lru_cache(maxsize=4096)
def _array(name: str, dtype: str, shape: tuple[int, ...], stype: str, length: int) -> int:
    """Return what one array takes in its record."""
    described = int(ProtoArray(dtype=dtype, shape=shape, stype=stype).ByteSize())
    return _field(_text(name) + _field(described + (_field(length) if length else 0)))


def _text(value: str) -> int:
    return _field(len(value.encode())) if value else 0


def _field(length: int) -> int:
    """Return what a field of so many bytes takes: its tag in one byte, its length, itself."""
    return 1 + max(1, -(-length.bit_length() // 7)) + length
