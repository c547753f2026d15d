"""Fast writing and reading of Flower's arrays gives the same bytes and elements as Flower."""

import pickle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from testbed.engine.hosts.host import set_identity
from testbed.wire.arrays import (
    LentArray,
    QuickArray,
    QuickRecords,
    as_numpy,
    data_bytes,
    lent,
    quicken,
    to_array,
)
from testbed.wire.size import serialised_bytes

DTYPES = st.sampled_from(["float32", "float64", "float16", "int64", "int8", "bool", "complex64"])


@given(DTYPES.flatmap(lambda dtype: arrays(dtype, array_shapes(min_dims=0, min_side=0))))
def test_bytes_equal_those_of_flower(values):
    own, flower = to_array(values), Array(np.asarray(values, order="C"))
    assert (own.dtype, own.shape, own.stype, own.data) == (
        flower.dtype,
        flower.shape,
        flower.stype,
        flower.data,
    )
    for read in (as_numpy(own), flower.numpy()):
        assert read.dtype == values.dtype
        assert read.shape == values.shape
        assert read.tobytes() == values.tobytes()


@given(DTYPES.flatmap(lambda dtype: arrays(dtype, array_shapes(min_dims=0, min_side=0))))
def test_lent_arrays_equal_those_of_flower(values):
    flower = Array(np.asarray(values, order="C"))
    travelled = pickle.loads(pickle.dumps(lent(values), protocol=5))
    for own in (lent(values), travelled):
        assert data_bytes(own) == len(flower.data)
        assert as_numpy(own).tobytes() == own.numpy().tobytes() == values.tobytes()
        assert as_numpy(own).dtype == values.dtype
        assert as_numpy(own).shape == values.shape
        assert (own.dtype, own.shape, own.stype, own.data) == (
            flower.dtype,
            flower.shape,
            flower.stype,
            flower.data,
        )
        assert data_bytes(own) == len(flower.data)


def test_a_lent_array_shares_its_memory_until_it_is_pickled():
    values = np.zeros((40, 40), np.float32)
    array = lent(values)
    assert np.shares_memory(as_numpy(array), values)
    assert not as_numpy(array).flags.writeable
    assert values.flags.writeable
    buffers = []
    content = pickle.dumps(array, protocol=5, buffer_callback=buffers.append)
    assert len(content) < 500
    assert [buffer.raw().nbytes for buffer in buffers] == [values.nbytes]
    values += 1.0
    assert (array.numpy() == 1.0).all()
    array.numpy()[:] = 2.0  # a copy
    assert (values == 1.0).all()


def test_an_array_that_is_not_contiguous_is_copied():
    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    array = lent(values)
    assert not isinstance(array, LentArray)
    assert np.array_equal(as_numpy(array), values)


def test_a_message_of_lent_arrays_has_the_size_of_flowers():
    set_identity()
    values = np.zeros((40, 40), np.float32)
    sizes = []
    for array in (lent(values), Array(values)):
        record = ArrayRecord()
        record["w"] = array
        sizes.append(serialised_bytes(Message(RecordDict({"arrays": record}), 1, "train")))
    assert sizes[0] == sizes[1]


def test_fortran_order_is_written_as_c_order():
    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert np.array_equal(as_numpy(to_array(values)), values)


def test_fortran_order_is_read():
    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert np.array_equal(as_numpy(Array(values)), values)


@pytest.mark.parametrize(
    "change",
    [
        {"data": b""},
        {"data": to_array(np.zeros(3, np.float32)).data[:-1]},
        {"data": b"x" + to_array(np.zeros(3, np.float32)).data[1:]},
        {"stype": "something.else"},
    ],
)
def test_invalid_arrays_are_refused_as_by_flower(change):
    fields = {"dtype": "float32", "shape": (3,), "stype": "numpy.ndarray", "data": b""} | change
    array = Array(**fields)
    with pytest.raises((ValueError, TypeError, EOFError)) as flower:
        array.numpy()
    with pytest.raises(flower.type):
        as_numpy(array)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("float64", (3,)), ("float32", (4,)), ("nonsense (", (3,)), ("object", (3,)), ("f4", (-3,))],
)
def test_declared_dtype_and_shape_do_not_decide_what_is_read(dtype, shape):
    values = np.arange(3, dtype=np.float32)
    array = Array(dtype=dtype, shape=shape, stype="numpy.ndarray", data=to_array(values).data)
    assert np.array_equal(as_numpy(array), values)
    assert as_numpy(array).dtype == np.float32


def test_pickled_objects_are_not_read():
    array = Array(np.zeros(1))
    array.data = (
        b"\x93NUMPY"
        + np.lib.format.magic(1, 0)[6:]
        + b"\x3f\x00"
        + (b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(62) + b"\n")
        + b"\x80\x04N."
    )
    array.dtype, array.shape = "object", (1,)
    with pytest.raises(ValueError, match="pickle"):
        as_numpy(array)


def test_arrays_of_a_received_message_are_writable_copies():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    set_identity()
    record = ArrayRecord({"w": Array(values)})
    message = Message(RecordDict({"arrays": record}), 1, "train")
    quicken(message)
    array = message.content.array_records["arrays"]["w"]
    assert isinstance(array, QuickArray)
    read = array.numpy()
    read += 1.0
    assert np.array_equal(array.numpy(), values)


def test_records_by_kind_of_a_received_message_equal_those_of_flower():
    set_identity()
    arrays_, metrics = ArrayRecord({"w": Array(np.zeros(2))}), MetricRecord({"num-examples": 3})
    settings = ConfigRecord({"a": 1})
    content = RecordDict({"arrays": arrays_, "metrics": metrics, "config": settings})
    message = Message(content, 1, "train")
    quicken(message)
    received = message.content
    assert type(received) is QuickRecords
    assert dict(received.array_records) == {"arrays": arrays_}
    assert dict(received.metric_records) == {"metrics": metrics}
    assert dict(received.config_records) == {"config": settings}
    received.array_records["more"] = arrays_
    del received.metric_records["metrics"]
    assert list(received) == ["arrays", "config", "more"]
    with pytest.raises(TypeError):
        received.array_records["wrong"] = metrics
    again = pickle.loads(pickle.dumps(message)).content
    assert list(again.array_records) == ["arrays", "more"]


@pytest.mark.parametrize("count", [6, 5000])
def test_large_arrays_are_pickled_as_separate_buffers(count):
    values = np.arange(count, dtype=np.float32)
    array = to_array(values)
    array.__class__ = QuickArray
    beside = []
    stream = pickle.dumps(array, protocol=5, buffer_callback=beside.append)
    assert (len(beside), len(stream) > values.nbytes) == ((1, False) if count > 10 else (0, True))
    received = pickle.loads(stream, buffers=[memoryview(buffer) for buffer in beside])
    for again in (received, pickle.loads(pickle.dumps(array))):
        assert type(again) is QuickArray
        assert (again.data, again.shape, again.dtype) == (array.data, array.shape, array.dtype)
        assert np.array_equal(again.numpy(), values)
