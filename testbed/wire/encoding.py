"""Encodes released features as float32, or losslessly in fewer bytes.

An encoding depends on the released values only and describes itself: cloud and adversary decode the
released features bit for bit without knowing the defence. Plain features travel as the array ``z``,
all other encodings as one array of bytes, ``z.packed`` (each array of a message adds more than a
hundred bytes):

| bytes | content |
|---|---|
| 3 | bits per value (32, 8, 4 or 2), how positions are given, number of dimensions |
| 4 each | the dimensions, images first |
| 5 per image | where values have fewer than 32 bits: step (float32) and zero point (uint8) |
| | positions of the values that are not zero: none, one bit for each, or counts and indices |
| | the values: float32, or codes packed into bytes; value = step * (code - zero point) |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from testbed.wire.protocol import Z_PACKED, Z

FLOAT_BITS = 32
CODE_BITS = (8, 4, 2)
DENSE, BITMASK, INDICES = range(3)
MOST_ELEMENTS = 2**28  # headers that claim more are refused
_EXPONENT = 40  # float32 values within a factor 2^16 of the largest are whole in its 2^-40

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class WireFormat:
    """Known properties of released features.

    Attributes
    ----------
    bits : 32, or 8, 4 or 2 for features that went through ``testbed.wire.quantisation.quantise``.
    sparse : whether most features are zero; the positions of the others are then sent.
    """

    bits: int = FLOAT_BITS
    sparse: bool = False


FLOAT32 = WireFormat()


def encode(released: Tensor, wire: WireFormat = FLOAT32) -> dict[str, Tensor]:
    """Return the arrays that travel for released features (N, ...).

    ``decode`` returns the same bits. Values that do not fit the format's bits, such as infinity,
    travel as float32.
    """
    if wire == FLOAT32:
        return {Z: released}
    values = released.detach().cpu().to(torch.float32).contiguous().numpy()
    flat = values.reshape(len(values), -1)
    grid = _grid(flat, wire.bits) if wire.bits < FLOAT_BITS else None
    bits = FLOAT_BITS if grid is None else wire.bits
    form, positions, kept = _positions(flat, bits) if wire.sparse else _dense(flat)
    if bits == FLOAT_BITS and form == DENSE:
        return {Z: released}
    parts = [np.array([bits, form, values.ndim]), np.array(values.shape, "<u4")]
    if grid is None:
        parts += [positions, kept.astype("<f4")]
    else:
        step, zero_point = grid
        rows = (
            np.nonzero(flat)[0] if form != DENSE else np.repeat(np.arange(len(flat)), flat.shape[1])
        )
        codes = np.rint(kept / np.where(step == 0.0, 1.0, step)[rows]) + zero_point[rows]
        parts += [step.astype("<f4"), zero_point, positions, _pack(codes, bits)]
    return {Z_PACKED: torch.from_numpy(np.concatenate([_as_bytes(part) for part in parts]))}


def decode(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the released features, float32 (N, ...), from the arrays of a message.

    Raises
    ------
    ValueError : the message has no features, or they contradict their header.
    """
    if Z in tensors:
        return tensors[Z].float()
    if Z_PACKED not in tensors:
        raise ValueError("the message carries no features")
    reader = _Reader(tensors[Z_PACKED].numpy())
    bits, form, dimensions = (int(value) for value in reader.take(3, "u1"))
    shape = tuple(int(size) for size in reader.take(dimensions, "<u4"))
    if bits not in (FLOAT_BITS, *CODE_BITS) or not shape or prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"unknown encoding of features: {bits} bits, shape {shape}")
    images, elements = shape[0], prod(shape[1:])
    if bits < FLOAT_BITS:
        step, zero_point = reader.take(images, "<f4"), reader.take(images, "u1")
    where = _read_positions(reader, form, images, elements)
    flat = np.zeros((images, elements), dtype=np.float32)
    if bits == FLOAT_BITS:
        flat[where] = reader.take(len(where[0]), "<f4")
    else:
        codes = _unpack(reader.take(-(-len(where[0]) * bits // 8), "u1"), bits)[: len(where[0])]
        signed = codes.astype(np.float32) - zero_point[where[0]].astype(np.float32)
        flat[where] = step[where[0]] * signed
    reader.finish()
    return torch.from_numpy(flat.reshape(shape))


def payload_bytes(payload: Mapping[str, Tensor]) -> int:
    """Return the bytes of the arrays, without the overhead of the message."""
    return sum(tensor.numel() * tensor.element_size() for tensor in payload.values())


def _grid(flat: Floats, bits: int) -> tuple[Floats, Bytes] | None:
    """Return step and zero point of each image, of whose step all its values are multiples, if any.

    The step is the greatest common divisor of the values, which are first expressed as integer
    multiples of a small power of two, so that nothing is rounded.
    """
    if not np.isfinite(flat).all():
        return None
    largest = np.abs(flat).max(axis=1, initial=0.0).astype(np.float64)
    unit = np.ldexp(1.0, np.frexp(largest)[1] - _EXPONENT)
    whole = flat / unit[:, None]
    if (whole != np.rint(whole)).any():
        return None
    divisor = np.gcd.reduce(whole.astype(np.int64), axis=1)
    multiples = whole / np.maximum(divisor, 1)[:, None]
    low, high = multiples.min(axis=1, initial=0.0), multiples.max(axis=1, initial=0.0)
    exact = divisor * unit
    step = exact.astype(np.float32)
    if (high - low > 2**bits - 1).any() or (step != exact).any():
        return None
    return step, (-low).astype(np.uint8)


def _positions(flat: Floats, bits: int) -> tuple[int, Bytes, Floats]:
    """Return the form of the positions of non-zero values in the fewest bytes, them, the values."""
    rows, columns = np.nonzero(flat)
    counts = np.bincount(rows, minlength=len(flat)).astype("<u4")
    width = _index_type(flat.shape[1])
    forms = {
        BITMASK: flat.shape[1] * len(flat) / 8.0,
        INDICES: counts.nbytes + len(rows) * width.itemsize,
        DENSE: (flat.size - len(rows)) * bits / 8.0,
    }
    form = min(forms, key=lambda name: forms[name])
    if form == DENSE:
        return _dense(flat)
    kept = flat[rows, columns]
    if form == BITMASK:
        return BITMASK, np.packbits(flat != 0.0), kept
    indices = _as_bytes(columns.astype(width))
    return INDICES, np.concatenate([_as_bytes(counts), indices]), kept


def _dense(flat: Floats) -> tuple[int, Bytes, Floats]:
    return DENSE, np.empty(0, dtype=np.uint8), flat.ravel()


def _read_positions(
    reader: "_Reader", form: int, images: int, elements: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of the values that follow."""
    if form == DENSE:
        every = np.arange(images * elements)
        return every // max(elements, 1), every % max(elements, 1)
    if form == BITMASK:
        mask = np.unpackbits(reader.take(-(-images * elements // 8), "u1"))[: images * elements]
        rows, columns = np.nonzero(mask.reshape(images, elements))
        return rows, columns
    if form != INDICES:
        raise ValueError(f"unknown encoding of features: positions of form {form}")
    counts = reader.take(images, "<u4").astype(np.int64)
    columns = reader.take(int(counts.sum()), _index_type(elements)).astype(np.int64)
    if (columns >= elements).any():
        raise ValueError("the encoding of features names a position that does not exist")
    return np.repeat(np.arange(images), counts), columns


class _Reader:
    """Takes arrays off the front of a packed payload."""

    def __init__(self, data: Bytes) -> None:
        if data.dtype != np.uint8 or data.ndim != 1:
            raise ValueError("packed features are one array of bytes")
        self._data = data
        self._at = 0

    def take(self, count: int, kind: "str | np.dtype[Any]") -> NDArray[Any]:
        """Return the next ``count`` values of a kind."""
        dtype = np.dtype(kind)
        end = self._at + count * dtype.itemsize
        if end > len(self._data):
            raise ValueError("the encoding of features ends too early")
        values = np.frombuffer(self._data[self._at : end].tobytes(), dtype)
        self._at = end
        return values

    def finish(self) -> None:
        """Refuse bytes after the end."""
        if self._at != len(self._data):
            raise ValueError("the encoding of features goes on after its end")


def _index_type(elements: int) -> "np.dtype[Any]":
    """Return the smallest integer type that counts the elements of an image."""
    return np.dtype("u1" if elements <= 2**8 else "<u2" if elements <= 2**16 else "<u4")


def _as_bytes(values: NDArray[Any]) -> Bytes:
    if values.dtype == np.int64:
        values = values.astype(np.uint8)
    return np.frombuffer(np.ascontiguousarray(values).tobytes(), dtype=np.uint8)


def _pack(codes: NDArray[Any], bits: int) -> Bytes:
    """Pack codes into bytes, the first one in the lowest bits."""
    per_byte = 8 // bits
    padded = np.zeros(-(-len(codes) // per_byte) * per_byte, dtype=np.uint8)
    padded[: len(codes)] = codes
    shifts = np.arange(per_byte, dtype=np.uint8) * bits
    packed: Bytes = np.bitwise_or.reduce(padded.reshape(-1, per_byte) << shifts, axis=1)
    return packed.astype(np.uint8)


def _unpack(packed: Bytes, bits: int) -> Bytes:
    shifts = np.arange(8 // bits, dtype=np.uint8) * bits
    codes: Bytes = ((packed[:, None] >> shifts) & np.uint8(2**bits - 1)).ravel()
    return codes
