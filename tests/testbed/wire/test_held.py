"""Records whose arrays are elsewhere: described, fetched when read, and only then."""

import pickle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from testbed.wire.held import HeldArrays, describe, held, hold
from testbed.wire.protocol import ARRAYS, MOMENTS

VALUES = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((), np.float32)}


def record(**changed):
    return ArrayRecord({name: Array(value) for name, value in (VALUES | changed).items()})


def standing_for(record):
    """Return what travels in place of a record."""
    return hold("reply", ARRAYS, describe(record, ARRAYS))


class Elsewhere:
    """Holds one reply's records; counts how often it is read."""

    def __init__(self):
        self.reads = 0

    def read(self, key):
        assert key == "reply"
        self.reads += 1
        return {ARRAYS: record()}


@pytest.fixture
def arrived():
    """Return a record that has travelled, and where its arrays are."""
    received = pickle.loads(pickle.dumps(standing_for(record())))
    elsewhere = held(received).holder = Elsewhere()
    return received, elsewhere


def test_a_record_travels_without_its_arrays():
    large = record(a=np.zeros((300, 300), np.float32))
    assert len(pickle.dumps(standing_for(large))) < 1500
    assert held(large) is None


def test_names_and_description_are_known_without_reading(arrived):
    received, elsewhere = arrived
    assert isinstance(received, ArrayRecord)
    assert list(received) == list(received.keys()) == ["a", "b"]
    assert len(received) == 2
    assert "a" in received
    assert "c" not in received
    assert describe(received, ARRAYS) == describe(record(), ARRAYS)
    assert describe(received, ARRAYS).shapes == (("a", (2, 3)), ("b", ()))
    assert elsewhere.reads == 0


def test_reading_fetches_the_arrays_once(arrived):
    received, elsewhere = arrived
    assert np.array_equal(received["a"].numpy(), VALUES["a"])
    assert {name: array.numpy().tolist() for name, array in received.items()} == {
        name: value.tolist() for name, value in VALUES.items()
    }
    assert received == record()
    received.pop("a")  # as FedMedian does
    received["c"] = Array(np.zeros(1))
    assert list(received) == ["b", "c"]
    assert list(received.copy()) == ["b", "c"]
    assert elsewhere.reads == 1


def test_a_pickled_copy_of_a_record_that_arrived_has_its_arrays(arrived):
    received, elsewhere = arrived
    copied = pickle.loads(pickle.dumps(received))
    assert not isinstance(copied.__dict__["_data"], HeldArrays)
    assert copied == record()
    assert elsewhere.reads == 1


@pytest.mark.parametrize(
    ("changed", "kind", "sound"),
    [
        ({}, ARRAYS, True),
        ({"a": np.array([1.0, np.nan], np.float32)}, ARRAYS, False),
        ({"a": np.array([1.0, -np.inf])}, ARRAYS, False),
        ({"second.a": np.array([-1e-9], np.float32)}, MOMENTS, False),
        ({"second.a": np.array([-1e-9], np.float32)}, ARRAYS, True),
        ({"first.a": np.array([-1e-9], np.float32)}, MOMENTS, True),
        ({"a": np.array(["text"])}, ARRAYS, False),
    ],
)
def test_soundness(changed, kind, sound):
    assert describe(record(**changed), kind).sound == sound


def test_bytes_that_are_no_array_are_unsound():
    broken = record()
    broken["b"] = Array("float32", (), "numpy.ndarray", b"nothing")
    assert not describe(broken, ARRAYS).sound
    assert not describe(standing_for(broken), ARRAYS).sound
