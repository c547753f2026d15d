"""Writes and reads Flower's arrays without parsing NumPy's file header each time.

A Flower ``Array`` holds an array in NumPy's file format (a header that spells out dtype and shape,
then the elements). ``numpy.save`` and ``numpy.load`` compose and parse the header each time, which
costs more than copying a small network's weights. This module composes a header once per dtype and
shape, and does not parse an array whose bytes begin with it. The bytes are the same.
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
"""Arrays from this size on are pickled as separate buffers."""


class QuickArray(Array):
    """An array whose ``numpy()`` is as fast as ``as_numpy``.

    Flower's strategies call it once for every array of every reply.
    """

    def numpy(self) -> NDArray[Any]:
        """Return the array, as a copy that may be written to."""
        return as_numpy(self).copy()

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """Pickle the elements as a separate buffer; a growing stream would copy them."""
        beside = int(protocol) >= 5 and isinstance(self.data, bytes)
        if not beside or len(self.data) < BESIDE_BYTES:
            return super().__reduce_ex__(protocol)
        elements = np.frombuffer(self.data, np.uint8)  # pickled as a separate buffer
        return _beside, (self.dtype, self.shape, self.stype, elements)


def _beside(dtype: str, shape: tuple[int, ...], stype: str, data: NDArray[np.uint8]) -> QuickArray:
    return _array(QuickArray, dtype, shape, stype, data.tobytes())


class LentArray(QuickArray):
    """An array in memory that others own; its bytes in NumPy's file format are made when asked for.

    It must stay in the processes of the testbed: Flower's serialisation looks classes up by name.
    """

    def __getattr__(self, name: str) -> Any:
        if name != "data":
            raise AttributeError(name)
        self.data = to_array(self.__dict__["values"]).data
        return self.data

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """Pickle the elements, many of them as a separate buffer."""
        values = self.__dict__["values"]
        if values.nbytes >= BESIDE_BYTES:
            return lent, (values,)
        return _lent_bytes, (self.dtype, self.shape, values.tobytes())


def lent(values: NDArray[Any]) -> Array:
    """Return a Flower array that shares the memory of these elements, which must stay as they are.

    It is a copy where the elements are not contiguous or of an unusual type.
    """
    dtype, shape = _name(values.dtype), values.shape
    if not values.flags.c_contiguous or _header(dtype, shape) is None:
        return to_array(values)
    array = LentArray.__new__(LentArray)
    array.__dict__.update(dtype=dtype, shape=shape, stype=_STYPE, values=values)
    return array


def _lent_bytes(dtype: str, shape: tuple[int, ...], elements: bytes) -> Array:
    return lent(np.frombuffer(elements, np.dtype(dtype)).reshape(shape))


def data_bytes(array: Array) -> int:
    """Return the length of an array's bytes in NumPy's file format, without making them."""
    if not isinstance(array, LentArray) or "data" in array.__dict__:
        return len(array.data)
    return len(_header(array.dtype, array.shape) or b"") + int(array.__dict__["values"].nbytes)


class QuickRecords(RecordDict):
    """Records whose views by kind are built without checking each record twice.

    Flower's strategies ask for a view eight times per reply.
    """

    @property
    def array_records(self) -> Any:
        """Return the array records by name; adding to them adds here, as in Flower."""
        return _of_kind(self, ArrayRecord)

    @property
    def metric_records(self) -> Any:
        """Return the metric records by name, in the same way."""
        return _of_kind(self, MetricRecord)


_View: Any = type(RecordDict().array_records)


def _of_kind(records: RecordDict, kind: type[Any]) -> Any:
    view = _View(records, kind)
    for name, record in records.items():
        if isinstance(record, kind):
            super(_View, view).__setitem__(name, record)  # without adding it to the records again
    return view


A = TypeVar("A", bound=Array)


def _array(kind: type[A], dtype: str, shape: tuple[int, ...], stype: str, data: bytes) -> A:
    """Return an array without the type checks of the class's constructor."""
    array = kind.__new__(kind)
    array.__dict__.update(dtype=dtype, shape=shape, stype=stype, data=data)
    return array


def to_array(values: NDArray[Any]) -> Array:
    """Return a Flower array with the same bytes as Flower's own conversion."""
    values = np.asarray(values, order="C")  # ascontiguousarray would give a scalar an axis
    dtype, shape = _name(values.dtype), values.shape
    header = _header(dtype, shape)
    if header is None:
        return Array(values)
    return _array(Array, dtype, shape, _STYPE, b"".join((header, values.data)))


@lru_cache(maxsize=64)
def _name(dtype: np.dtype[Any]) -> str:
    return str(dtype)


def as_numpy(array: Array) -> NDArray[Any]:
    """Return an array's elements, as a read-only view where possible.

    Raises
    ------
    ValueError, TypeError : the bytes are not an array in NumPy's file format.
    """
    if isinstance(array, LentArray) and "data" not in array.__dict__:
        values: NDArray[Any] = array.__dict__["values"].view()
        values.flags.writeable = False
        return values
    view = _view(array)
    return view if view is not None else Array.numpy(array)


def quicken(message: Message) -> None:
    """Speed up reading the records and arrays of a received message, by changing their classes.

    Such a message must stay in this process: Flower's serialisation looks classes up by name.
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
    """Return a view of the elements if the bytes begin with the expected header."""
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
    """Return the header of a contiguous array; None: NumPy should handle the dtype or shape."""
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
