"""Which tier each Flower node is in, without an object per node."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.engine.hosts.host import device_of, node_of


class NodeTiers(Mapping[int, int]):
    """The tiers by node id, read from the column of the fleet's devices.

    Parameters
    ----------
    tier_of : (N,) the tier of every device; not copied.
    """

    def __init__(self, tier_of: NDArray[np.unsignedinteger[Any]]) -> None:
        self._tier_of = tier_of

    def __getitem__(self, node: int) -> int:
        """Return a node's tier."""
        device = device_of(node)
        if not 0 <= device < len(self._tier_of):
            raise KeyError(node)
        return int(self._tier_of[device])

    def __iter__(self) -> Iterator[int]:
        """Yield the nodes in the order of their devices."""
        return (node_of(device) for device in range(len(self._tier_of)))

    def __len__(self) -> int:
        """Return the number of nodes."""
        return len(self._tier_of)
