"""Assigns devices to hosts in shards of fixed size, and runs their messages there."""

from collections.abc import Sequence

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from testbed.engine.hosts.backend import Backend
from testbed.engine.hosts.broadcast import Broadcast
from testbed.engine.hosts.host import Delivery, SameDelivery, device_of
from testbed.wire import protocol
from testbed.wire.sums import shard_numbers


class Dispatcher:
    """Runs each exchange's messages on the hosts.

    A device's state stays on the host that simulates it. A device therefore keeps its host for a
    whole training round, and for the whole of serving. In a round a shard stays on one host, which
    can add up what its devices trained.

    Parameters
    ----------
    shard_size : devices that a host is handed at a time.
    """

    def __init__(self, backend: Backend, shard_size: int) -> None:
        self._backend = backend
        self._shard_size = shard_size
        self._round = ""
        self._shard_of: dict[int, int] = {}

    def begin(self, messages: Sequence[Message]) -> None:
        """Assign the devices of a training round to shards, also those that are offline."""
        first = messages[0].metadata
        if first.message_type not in protocol.TRAINING:
            return
        if first.message_type == protocol.FORWARD and first.group_id != self._round:
            self._round, self._shard_of = first.group_id, {}
        nodes = [message.metadata.dst_node_id for message in messages]
        if not self._shard_of.keys() >= set(nodes):
            self._shard_of = shard_numbers(nodes, self._shard_size) | self._shard_of

    def run(self, messages: Sequence[Message]) -> list[Delivery]:
        """Run messages of one type, and return their deliveries in the same order."""
        if not messages:
            return []
        in_training = messages[0].metadata.message_type in protocol.TRAINING
        places: dict[int, list[int]] = {}
        for place, message in enumerate(messages):
            places.setdefault(message.metadata.dst_node_id, []).append(place)
        shard_of = self._shard_of if in_training else shard_numbers(list(places), self._shard_size)
        parts: dict[tuple[int, int], list[int]] = {}
        for node in sorted(places):
            number = shard_of[node]
            host = number % self._backend.hosts if in_training else self._host(node)
            parts.setdefault((number, host), []).extend(places[node])
        shards = [(host, part) for (_, host), part in sorted(parts.items())]
        results = self._backend.handle(
            [(host, [messages[place] for place in part]) for host, part in shards]
        )
        by_place: dict[int, Delivery] = {}
        for (_, part), deliveries in zip(shards, results, strict=True):
            by_place |= dict(zip(part, deliveries, strict=True))
        return [by_place[place] for place in range(len(messages))]

    def broadcast(
        self, message_type: str, contents: Sequence[RecordDict], content_of: NDArray[np.int16]
    ) -> list[SameDelivery] | None:
        """Deliver one message to all devices (``Broadcast``); None: it must go one by one."""
        return self._backend.broadcast(
            Broadcast(message_type, contents, content_of, self._shard_size)
        )

    def _host(self, node: int) -> int:
        """Return a node's host outside training."""
        return (device_of(node) // self._shard_size) % self._backend.hosts
