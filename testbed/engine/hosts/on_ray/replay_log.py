"""Records the messages that define a host's state, to replay them to a new process.

A device keeps state between messages in two cases: its front-end and optimiser within a training
round, and the front-end deployed on it. A device's computations depend only on (seed, device,
round, step) and on these messages, so that a replay gives equal bits.
"""

from collections.abc import Sequence

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from testbed.engine.hosts.broadcast import Broadcast
from testbed.engine.hosts.host import device_of, node_of
from testbed.wire import protocol

OF_A_ROUND = frozenset({protocol.FORWARD, protocol.BACKWARD})


class ReplayLog:
    """The messages, shard by shard, that led to the present state of one host's devices.

    Of deployments that went out device by device, only the shared content and the device numbers
    are kept, 4 bytes each.

    Attributes
    ----------
    broadcasts : the deployments on the whole fleet.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything, when another arm is installed."""
        self._group = ""
        self._round: list[list[Message]] = []
        self._deployed: list[tuple[RecordDict, NDArray[np.uint32]]] = []
        self.broadcasts: list[Broadcast] = []

    def note(self, messages: Sequence[Message]) -> None:
        """Add a shard that the host has handled; a new round replaces the previous one."""
        training = [item for item in messages if item.metadata.message_type in OF_A_ROUND]
        deploying = [item for item in messages if item.metadata.message_type == protocol.DEPLOY]
        if training:
            group = training[0].metadata.group_id
            if group != self._group:
                self._group, self._round = group, []
            self._round.append(training)
        contents = {id(item.content): item.content for item in deploying}
        for key, content in contents.items():
            nodes = [item.metadata.dst_node_id for item in deploying if id(item.content) == key]
            devices = np.array([device_of(node) for node in nodes], dtype=np.uint32)
            self._deployed.append((content, devices))

    def note_broadcast(self, broadcast: Broadcast) -> None:
        """Add a message to all devices; all hosts' logs share it."""
        if broadcast.message_type == protocol.DEPLOY:
            self.broadcasts.append(broadcast)

    def shards(self) -> list[list[Message]]:
        """Return the shards to replay, in order."""
        deployed = [
            [Message(content, node_of(int(device)), protocol.DEPLOY) for device in devices]
            for content, devices in self._deployed
        ]
        return [*self._round, *deployed]
