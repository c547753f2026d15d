"""One message to all devices: how hosts answer it without a message per device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

NOT_ADDRESSED = -1


@dataclass(frozen=True)
class Broadcast:
    """A message to all devices of the fleet, or to some of them.

    Attributes
    ----------
    contents : the different contents.
    content_of : the number of each device's content (N,); ``NOT_ADDRESSED``: it gets none.
    shard_size : devices that a host is handed at a time; shards go to the hosts in turn.
    """

    message_type: str
    contents: Sequence[RecordDict]
    content_of: NDArray[np.int16]
    shard_size: int

    def of_host(self, host: int, hosts: int) -> NDArray[np.int64]:
        """Return the devices that a host simulates and that are addressed."""
        addressed = np.flatnonzero(self.content_of != NOT_ADDRESSED)
        own: NDArray[np.int64] = addressed[addressed // self.shard_size % hosts == host]
        return own
