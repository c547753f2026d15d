"""Assigns devices to hosts in shards of fixed size, and runs their messages there."""

from collections.abc import Sequence

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from testbed.engine.hosts.backend import Backend
from testbed.engine.hosts.broadcast import Broadcast
from testbed.engine.hosts.host import Delivery, SameDelivery, device_of
from testbed.wire import protocol


class Dispatcher:
    """Runs each exchange's messages on the hosts.

    A device's state stays on the host that simulates it. A device therefore keeps its host for a
    whole training round, and for the whole of serving.

    Parameters
    ----------
    shard_size : devices that a host is handed at a time.
    """

    def __init__(self, backend: Backend, shard_size: int) -> None:
        self._backend = backend
        self._shard_size = shard_size
        self._round = ""
        self._host_in_round: dict[int, int] = {}

    def run(self, messages: Sequence[Message]) -> list[Delivery]:
        """Run messages of one type, and return their deliveries in the same order."""
        if not messages:
            return []
        self._begin(messages[0])
        in_training = messages[0].metadata.message_type in protocol.TRAINING
        places: dict[int, list[int]] = {}
        for place, message in enumerate(messages):
            places.setdefault(message.metadata.dst_node_id, []).append(place)
        nodes = sorted(places)
        shards: list[tuple[int, list[int]]] = []
        for number, start in enumerate(range(0, len(nodes), self._shard_size)):
            by_host: dict[int, list[int]] = {}
            for node in nodes[start : start + self._shard_size]:
                host = self._training_host(node, number) if in_training else self._host(node)
                by_host.setdefault(host, []).extend(places[node])
            shards += sorted(by_host.items())
        results = self._backend.handle(
            [(host, [messages[place] for place in shard]) for host, shard in shards]
        )
        by_place: dict[int, Delivery] = {}
        for (_, shard), deliveries in zip(shards, results, strict=True):
            by_place |= dict(zip(shard, deliveries, strict=True))
        return [by_place[place] for place in range(len(messages))]

    def broadcast(
        self, message_type: str, contents: Sequence[RecordDict], content_of: NDArray[np.int16]
    ) -> list[SameDelivery] | None:
        """Deliver one message to all devices (``Broadcast``); None: it must go one by one."""
        return self._backend.broadcast(
            Broadcast(message_type, contents, content_of, self._shard_size)
        )

    def _begin(self, message: Message) -> None:
        """Forget the hosts of the round before."""
        server_round = message.metadata.group_id
        if message.metadata.message_type == protocol.FORWARD and server_round != self._round:
            self._round, self._host_in_round = server_round, {}

    def _training_host(self, node: int, shard: int) -> int:
        """Return a node's host in this round: the one that its first shard went to."""
        return self._host_in_round.setdefault(node, shard % self._backend.hosts)

    def _host(self, node: int) -> int:
        """Return a node's host outside training."""
        return (device_of(node) // self._shard_size) % self._backend.hosts
