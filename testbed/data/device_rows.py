"""The images of each device in two arrays, without an object per device."""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class DeviceRows(Sequence[Rows]):
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

    @overload
    def __getitem__(self, device: int) -> Rows: ...
    @overload
    def __getitem__(self, device: slice) -> Sequence[Rows]: ...
    def __getitem__(self, device: int | slice) -> Rows | Sequence[Rows]:
        """Return the rows of a device."""
        if isinstance(device, slice):
            return [self[index] for index in range(*device.indices(len(self)))]
        if not 0 <= device < self._devices:
            raise IndexError(f"no device {device} among {self._devices}")
        if self._every is not None:
            start, end = device * self._every, (device + 1) * self._every
        else:
            start, end = int(self._ends[device - 1]) if device else 0, int(self._ends[device])
        return self._rows[start:end].astype(np.int64)

    def __iter__(self) -> Iterator[Rows]:
        """Yield the devices' rows."""
        return (self[device] for device in range(len(self)))


def _narrow(values: Rows) -> NDArray[Any]:
    """Return non-negative whole numbers, in 4 bytes each where these suffice."""
    fits = not len(values) or int(values.max()) <= np.iinfo(np.uint32).max
    return values.astype(np.uint32) if fits else values
