"""Sizes of messages equal those of Flower's protocol buffers."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.serde import message_to_proto
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from testbed.engine.hosts.host import set_identity
from testbed.wire.arrays import to_array
from testbed.wire.size import serialised_bytes

NAMES = st.text(max_size=8) | st.sampled_from(["conv1.weight", "ü" * 70])
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
VALUES = st.sampled_from(["float32", "int64", "uint8"]).flatmap(
    lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9))
)
ARRAYS = st.dictionaries(NAMES, VALUES, max_size=3).map(
    lambda values: ArrayRecord({name: to_array(array) for name, array in values.items()})
)
METRICS = st.dictionaries(NAMES, NUMBERS | st.lists(st.integers(0, 9)), max_size=3).map(
    MetricRecord
)
CONFIGS = st.dictionaries(NAMES, NUMBERS | st.booleans() | st.text(), max_size=3).map(ConfigRecord)
CONTENTS = st.dictionaries(NAMES, ARRAYS | METRICS | CONFIGS, max_size=3).map(RecordDict)


@pytest.fixture(autouse=True, scope="module")
def _identity():
    set_identity()


@given(CONTENTS, st.integers(0, 2**63), st.sampled_from(["train", "query", "train.custom"]))
def test_a_message_and_its_reply(content, node, message_type):
    message = Message(content, node, message_type)
    assert serialised_bytes(message) == message_to_proto(message).ByteSize()
    reply = Message(content, reply_to=message)
    assert serialised_bytes(reply) == message_to_proto(reply).ByteSize()


@given(st.integers(0, 10_000), st.text())
def test_an_error(code, reason):
    message = Message(RecordDict(), 1, "train")
    reply = Message(Error(code, reason), reply_to=message)
    assert serialised_bytes(reply) == message_to_proto(reply).ByteSize()


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_lengths_where_their_own_length_changes(size):
    array = to_array(np.zeros(size, dtype=np.uint8))
    content = RecordDict({"features": ArrayRecord({"z": array})})
    message = Message(content, 7, "query")
    assert serialised_bytes(message) == message_to_proto(message).ByteSize()
