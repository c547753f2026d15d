"""Flower's arrays, written and read without parsing NumPy's file header each time.

A Flower ``Array`` holds an array in NumPy's file format (a header that spells out dtype and shape,
then the elements). ``numpy.save`` and ``numpy.load`` compose and parse the header anew, which costs
more than copying the elements of a small network's weights. Here a header is composed once per
dtype and shape, and an array whose bytes begin with it needs no parsing. The bytes are the same.
"""

from functools import lru_cache
from io import BytesIO
from math import prod
from typing import Any, SupportsIndex, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

_STYPE = "numpy.ndarray"  # Flower's name of NumPy's file format
BESIDE_BYTES = 4096
"""Arrays of so many bytes are worth a buffer of their own when pickled."""


class QuickArray(Array):
    """An array that reads itself as ``as_numpy`` does, for code that calls ``numpy()`` on its own.

    Flower's strategies do, once for every array of every reply.
    """

    def numpy(self) -> NDArray[Any]:
        """Return the array, as a copy that may be written to."""
        return as_numpy(self).copy()

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """Let the elements travel beside the pickled stream, without copies of it that grow."""
        beside = int(protocol) >= 5 and isinstance(self.data, bytes)
        if not beside or len(self.data) < BESIDE_BYTES:
            return super().__reduce_ex__(protocol)
        elements = np.frombuffer(self.data, np.uint8)  # NumPy's arrays know how to
        return _beside, (self.dtype, self.shape, self.stype, elements)


def _beside(dtype: str, shape: tuple[int, ...], stype: str, data: NDArray[np.uint8]) -> QuickArray:
    return _array(QuickArray, dtype, shape, stype, data.tobytes())


class QuickRecords(RecordDict):
    """Records that find those of one kind without checking each of them twice.

    Flower's strategies ask eight times of every reply.
    """

    @property
    def array_records(self) -> Any:
        """Return the arrays by name; what is put there is put here, as Flower has it."""
        return _of_kind(self, ArrayRecord)

    @property
    def metric_records(self) -> Any:
        """Return the metrics by name, in the same way."""
        return _of_kind(self, MetricRecord)


_View: Any = type(RecordDict().array_records)


def _of_kind(records: RecordDict, kind: type[Any]) -> Any:
    view = _View(records, kind)
    for name, record in records.items():
        if isinstance(record, kind):
            super(_View, view).__setitem__(name, record)  # the records have it already
    return view


A = TypeVar("A", bound=Array)


def _array(kind: type[A], dtype: str, shape: tuple[int, ...], stype: str, data: bytes) -> A:
    """Return an array as the class's own constructor does, which checks every type first."""
    array = kind.__new__(kind)
    array.__dict__.update(dtype=dtype, shape=shape, stype=stype, data=data)
    return array


def to_array(values: NDArray[Any]) -> Array:
    """Return a Flower array with the bytes that Flower itself would make of it."""
    values = np.asarray(values, order="C")  # unlike ascontiguousarray, which gives a scalar an axis
    dtype, shape = _name(values.dtype), values.shape
    header = _header(dtype, shape)
    if header is None:
        return Array(values)
    return _array(Array, dtype, shape, _STYPE, b"".join((header, values.data)))


@lru_cache(maxsize=64)
def _name(dtype: np.dtype[Any]) -> str:
    return str(dtype)


def as_numpy(array: Array) -> NDArray[Any]:
    """Return an array's elements, as a view that cannot be written to where that is possible.

    Raises
    ------
    ValueError, TypeError : the bytes are not an array in NumPy's file format.
    """
    view = _view(array)
    return view if view is not None else Array.numpy(array)


def quicken(message: Message) -> None:
    """Make the records and arrays of a received message read themselves quickly.

    Only their classes change. Such a message is for this process: Flower's own wire knows its own
    classes by name.
    """
    content = message.content
    if type(content) is RecordDict:
        content.__class__ = QuickRecords
    for record in content.values():
        if isinstance(record, ArrayRecord):
            for array in record.values():
                if type(array) is Array:
                    array.__class__ = QuickArray


def _view(array: Array) -> NDArray[Any] | None:
    """Return a view of the elements if the bytes begin with the header that is to be expected."""
    if array.stype != _STYPE or not isinstance(array.shape, tuple):
        return None
    header = _header(array.dtype, array.shape)
    if header is None or not array.data.startswith(header):
        return None
    dtype = np.dtype(array.dtype)
    if len(array.data) != len(header) + dtype.itemsize * prod(array.shape):
        return None
    return np.frombuffer(array.data, dtype, offset=len(header)).reshape(array.shape)


@lru_cache(maxsize=4096)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes | None:
    """Return the header of a contiguous array; None for one that is better left to NumPy."""
    try:
        kind = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):
        return None
    if kind.kind not in "biuf" or any(size < 0 for size in shape):
        return None
    buffer = BytesIO()
    description = {"descr": kind.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()
