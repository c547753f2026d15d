"""Which images each device holds, as two arrays: a fleet of a million takes no million objects."""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class DeviceRows(Sequence[Rows]):
    """The devices' rows in the image pool, one after another (8 bytes per device, 8 per row).

    Parameters
    ----------
    rows : one array per device, possibly empty.
    """

    def __init__(self, rows: Sequence[Rows]) -> None:
        self._ends = np.cumsum([len(own) for own in rows], dtype=np.int64)
        self._rows = np.concatenate([np.empty(0, dtype=np.int64), *rows])

    def __len__(self) -> int:
        """Return the number of devices."""
        return len(self._ends)

    @overload
    def __getitem__(self, device: int) -> Rows: ...
    @overload
    def __getitem__(self, device: slice) -> Sequence[Rows]: ...
    def __getitem__(self, device: int | slice) -> Rows | Sequence[Rows]:
        """Return the rows of a device."""
        if isinstance(device, slice):
            return [self[index] for index in range(*device.indices(len(self)))]
        start = self._ends[device - 1] if device else 0
        return self._rows[start : self._ends[device]]

    def __iter__(self) -> Iterator[Rows]:
        """Yield the devices' rows."""
        return (self[device] for device in range(len(self)))
