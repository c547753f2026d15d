"""The images of each device: stored in two arrays, or drawn on demand; no object per device."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from testbed.core.seeds import generator, generators

Rows = NDArray[np.int64]
_PURPOSE = "device images"


class ImagesOfDevices(Sequence[Rows]):
    """Each device's rows in the image pool, ascending."""

    @overload
    def __getitem__(self, device: int) -> Rows: ...
    @overload
    def __getitem__(self, device: slice) -> Sequence[Rows]: ...
    def __getitem__(self, device: int | slice) -> Rows | Sequence[Rows]:
        """Return the rows of a device."""
        if isinstance(device, slice):
            return [self[index] for index in range(*device.indices(len(self)))]
        if not 0 <= device < len(self):
            raise IndexError(f"no device {device} among {len(self)}")
        return self._of(device)

    def __iter__(self) -> Iterator[Rows]:
        """Yield the devices' rows."""
        return (self[device] for device in range(len(self)))

    @abstractmethod
    def _of(self, device: int) -> Rows:
        """Return the rows of an existing device."""

    @property
    @abstractmethod
    def lengths(self) -> Rows:
        """How many rows each device has (N,)."""

    @abstractmethod
    def flat(self) -> Rows:
        """Return the rows of all devices, one device after another."""

    @abstractmethod
    def classes(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the labels of all devices' rows, each once, ascending."""


class DrawnRows(ImagesOfDevices):
    """Rows that each device draws with replacement from its part of the training images.

    Devices take the parts in turn. A device's draw depends on its number and the seed alone: it is
    repeated whenever it is asked for, and nothing is stored per device.

    Parameters
    ----------
    parts : rows of every part, none empty.
    each : rows that each device draws.
    """

    def __init__(self, parts: Sequence[Rows], each: int, devices: int, seed: int) -> None:
        self._parts = DeviceRows(parts)
        self._each, self._devices, self._seed = each, devices, seed

    def __len__(self) -> int:
        """Return the number of devices."""
        return self._devices

    def _of(self, device: int) -> Rows:
        part = self._parts[device % len(self._parts)]
        return np.sort(generator(self._seed, _PURPOSE, device).choice(part, self._each))

    @property
    def lengths(self) -> Rows:
        """How many rows each device has (N,)."""
        return np.full(self._devices, self._each, dtype=np.int64)

    def flat(self) -> Rows:
        """Return the rows of all devices, one device after another."""
        part_of = np.arange(self._devices) % len(self._parts)
        sizes = self._parts.lengths
        drawn = np.empty((self._devices, self._each), dtype=np.int64)  # places in the parts
        streams = generators(self._seed, _PURPOSE, np.arange(self._devices))
        for device, (rng, size) in enumerate(zip(streams, sizes[part_of].tolist(), strict=True)):
            drawn[device] = rng.integers(0, size, self._each)  # as choice does
        drawn += (np.cumsum(sizes) - sizes)[part_of][:, None]
        return np.sort(self._parts.flat()[drawn], axis=1).ravel()

    def classes(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the labels of all devices' rows, each once, ascending.

        In a large fleet, the first devices hold all that the parts have, and the others need not
        be drawn.
        """
        possible, held = set(self._parts.classes(labels).tolist()), set()
        for rows in self:
            held.update(labels[rows].tolist())
            if len(held) == len(possible):
                break
        return np.array(sorted(held), dtype=np.int64)


class DeviceRows(ImagesOfDevices):
    """The devices' rows in the image pool, one after another.

    It takes 4 bytes per row and 4 per device; none per device if all hold the same number.

    Parameters
    ----------
    rows : one array per device, possibly empty.
    """

    def __init__(self, rows: Sequence[Rows]) -> None:
        lengths = np.array([len(of_device) for of_device in rows], dtype=np.int64)
        self._devices = len(lengths)
        self._every = int(lengths[0]) if len(set(lengths.tolist())) == 1 else None
        ends = np.empty(0, dtype=np.int64) if self._every is not None else np.cumsum(lengths)
        self._ends = _narrow(ends)
        self._rows = _narrow(np.concatenate([np.empty(0, dtype=np.int64), *rows]))

    def __len__(self) -> int:
        """Return the number of devices."""
        return self._devices

    def _of(self, device: int) -> Rows:
        if self._every is not None:
            start, end = device * self._every, (device + 1) * self._every
        else:
            start, end = int(self._ends[device - 1]) if device else 0, int(self._ends[device])
        return self._rows[start:end].astype(np.int64)

    @property
    def lengths(self) -> Rows:
        """How many rows each device has (N,)."""
        if self._every is not None:
            return np.full(self._devices, self._every, dtype=np.int64)
        ends = self._ends.astype(np.int64)
        lengths: Rows = ends - np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        return lengths

    def flat(self) -> Rows:
        """Return the rows of all devices, one device after another."""
        return self._rows.astype(np.int64)

    def classes(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the labels of all devices' rows, each once, ascending."""
        found: NDArray[np.int64] = np.unique(labels[self._rows])
        return found


def _narrow(values: Rows) -> NDArray[Any]:
    """Return non-negative whole numbers, in 4 bytes each where these suffice."""
    fits = not len(values) or int(values.max()) <= np.iinfo(np.uint32).max
    return values.astype(np.uint32) if fits else values
