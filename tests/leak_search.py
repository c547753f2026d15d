"""Searches the data passed to an adversary for images in any representation.

Two searches complement each other. One walks the object graph and compares pixel values independent
of order, offset and scale, so that type, layout and normalisation do not matter. The other searches
a pickle for an image's bytes at any offset, also inside objects that cannot be walked. Neither
finds compressed or encrypted images.
"""

import itertools
from collections import deque
from collections.abc import Mapping
from functools import partial
from types import FunctionType, MethodType, ModuleType

import numpy as np
import torch

TOLERANCE = 1e-3
"""Of pixel values, relative to an image's range: accepts float16, but not the next grey level."""

_KEY = 8  # bytes of an encoded image that are looked up first
_LEAVES = (str, bytes, bytearray, int, float, complex, type, ModuleType)


def reachable(value):
    """Yield every object reachable from an object, each once."""
    stack, seen = [value], {}
    while stack:
        item = stack.pop()
        if id(item) not in seen:
            seen[id(item)] = item  # kept alive, so that no id is reused
            yield item
            stack += _children(item)


def _children(item):
    if item is None or isinstance(item, _LEAVES):
        return []
    if isinstance(item, Mapping):
        return [*item.keys(), *item.values()]
    if isinstance(item, list | tuple | set | frozenset | deque):
        return list(item)
    if isinstance(item, np.ndarray):
        return [item.base, *(item.ravel().tolist() if item.dtype == object else ())]
    if isinstance(item, MethodType):
        return [item.__self__, item.__func__]
    if isinstance(item, partial):
        return [item.func, item.args, item.keywords]
    if isinstance(item, FunctionType):
        cells = [cell.cell_contents for cell in item.__closure__ or ()]
        return [*cells, item.__defaults__, item.__kwdefaults__]
    declared = [getattr(kind, "__slots__", ()) for kind in type(item).__mro__]
    slots = [name for names in declared for name in ([names] if isinstance(names, str) else names)]
    found = [getattr(item, name, None) for name in slots]
    return [*found, *getattr(item, "__dict__", {}).values()]


def arrays_of(item):
    """Return the numbers in an object as arrays; an empty list if it holds none."""
    if isinstance(item, torch.Tensor):
        whole = torch.empty(0, dtype=item.dtype).set_(item.untyped_storage())  # of a view, too
        return [part.detach().double().numpy() for part in (item, whole)]
    if isinstance(item, bytes | bytearray | memoryview):
        return [np.frombuffer(item, dtype=np.uint8)]
    if isinstance(item, list | tuple) and item and isinstance(item[0], int | float | list | tuple):
        try:
            return [np.asarray(item, dtype=np.float64)]
        except (TypeError, ValueError):
            return []
    is_array = isinstance(item, np.ndarray) and item.dtype.kind in "uif"
    return [item] if is_array else []


class ImageSearch:
    """Searches objects and bytes for any of the given images.

    Parameters
    ----------
    images : (N, C, H, W), the pixels of uint8 divided by 255, or any other floats.
    """

    def __init__(self, images):
        self._pixels = images[0].size
        self._profiles = _profiles(images.reshape(len(images), -1))
        self._needles = {}
        for needle in {text for image in images for text in _encodings(image)}:
            key, place = _telling_key(needle)
            self._needles.setdefault(key, []).append((needle, place))

    def in_objects(self, value):
        """Say whether one of the images is reachable from an object."""
        return any(
            self._among(rows)
            for item in reachable(value)
            for array in arrays_of(item)
            for rows in _as_images(array, self._pixels)
        )

    def _among(self, rows):
        found = _profiles(rows)
        for known in (self._profiles, 1.0 - self._profiles[:, ::-1]):  # as they are, and negatives
            near = np.abs(found.mean(axis=1)[:, None] - known.mean(axis=1)) < TOLERANCE
            for row, image in np.argwhere(near):
                if np.abs(found[row] - known[image]).max() < TOLERANCE:
                    return True
        return False

    def in_bytes(self, data):
        """Say whether bytes contain one of the images, uncompressed, in rows of any axis order."""
        keys = np.array(list(self._needles), dtype=np.uint64)
        for offset in range(min(_KEY, len(data) // _KEY)):
            count = (len(data) - offset) // _KEY
            words = np.frombuffer(data, dtype="<u8", count=count, offset=offset)
            for hit in np.flatnonzero(np.isin(words, keys)):
                for needle, place in self._needles[int(words[hit])]:
                    start = int(hit) * _KEY + offset - place
                    if start >= 0 and data[start : start + len(needle)] == needle:
                        return True
        return False


def _profiles(rows):
    """Return each row's values (N, P) in ascending order, from 0 to 1."""
    ordered = np.sort(np.nan_to_num(rows.astype(np.float64)), axis=1)
    lowest = ordered[:, :1]
    span = ordered[:, -1:] - lowest
    return (ordered - lowest) / np.where(span > 0.0, span, 1.0)


def _as_images(array, pixels):
    """Yield an array as rows of ``pixels`` values, for every choice of axes as the image axes."""
    if array.size == 0 or array.size % pixels:
        return
    array = np.squeeze(array)
    for count in range(array.ndim + 1):
        for axes in itertools.combinations(range(array.ndim), count):
            if np.prod([array.shape[axis] for axis in axes], dtype=int) == pixels:
                rows = np.moveaxis(array, axes, range(-count, 0)) if count else array
                yield rows.reshape(-1, pixels)
    yield array.reshape(-1, pixels)
    yield array.reshape(-1, pixels, order="F")


def _encodings(image):
    """Yield an image (C, H, W) as bytes, in all number types, ranges and axis orders."""
    kinds = [image.astype(kind) for kind in ("f2", "f4", "f8")]
    kinds.append((np.float32(255.0) * image).astype("f4"))
    if image.min() >= 0.0 and image.max() <= 1.0:
        levels = np.rint(255.0 * image)
        kinds += [levels.astype("u1"), levels.astype("f4")]
    for axes in itertools.permutations(range(3)):
        yield from (np.ascontiguousarray(kind.transpose(axes)).tobytes() for kind in kinds)


def _telling_key(needle):
    """Return the word with the most distinct bytes in the needle, and its offset."""
    words = [needle[place : place + _KEY] for place in range(0, len(needle) - _KEY + 1, _KEY)]
    best = max(range(len(words)), key=lambda number: len(set(words[number])))
    return int.from_bytes(words[best], "little"), best * _KEY
