"""Keeps the trained arrays of replies in a host's process, where they are added up or fetched."""

from collections.abc import Sequence

from flwr.app import ArrayRecord, Message

from testbed.core.errors import HostError
from testbed.engine.hosts.host import Delivery
from testbed.wire.arrays import in_one_block
from testbed.wire.held import WEIGHTS, hold
from testbed.wire.records import record_in
from testbed.wire.sums import Sums, add_up

Records = dict[str, ArrayRecord]
Shard = tuple[list[str], list[int]]
"""Keys of the replies of a shard, and their weights."""


class HeldReplies:
    """The trained arrays of one host's replies, by exchange and key.

    The key of a reply is the message that it answers, which a replacement of the host repeats.
    """

    def __init__(self) -> None:
        self._of: dict[int, dict[str, Records]] = {}

    def keep(
        self, messages: Sequence[Message], deliveries: Sequence[Delivery], exchange: int
    ) -> None:
        """Keep the arrays of replies, in one block of memory; put descriptions in their place."""
        found = [_trained(delivery.reply) for delivery in deliveries]
        records = iter(in_one_block([record for of in found for record in of.values()]))
        for message, delivery, names in zip(messages, deliveries, found, strict=True):
            if not names:
                continue
            kept = {name: next(records) for name in names}
            key = f"{message.metadata.dst_node_id} {message.metadata.message_id}"
            self._of.setdefault(exchange, {})[key] = kept
            content = delivery.reply.content.copy()  # it may be the one that the device was sent
            for name, record in kept.items():
                content[name] = hold(record, key, name)
            delivery.reply.content = content

    def keep_only(self, exchanges: Sequence[int]) -> None:
        """Drop the arrays of all other exchanges."""
        for exchange in set(self._of) - set(exchanges):
            del self._of[exchange]

    def add_up(self, exchange: int, shards: Sequence[Shard]) -> list[Sums]:
        """Return the sums of each shard; its arrays are gone then.

        Raises
        ------
        HostError : a host died after another exchange, and this one cannot be repeated.
        """
        if exchange not in self._of:
            raise HostError("the arrays of its replies are gone with the process before it")
        arrays = self._of[exchange]
        sums = []
        for keys, weights in shards:
            sums.append(add_up([arrays.pop(key) for key in keys], weights))
        return sums

    def take(self, exchange: int) -> dict[str, Records]:
        """Return the arrays of an exchange, which are gone then."""
        return self._of.pop(exchange, {})


def _trained(reply: Message) -> Records:
    """Return a reply's records of arrays that the host keeps."""
    if not reply.has_content():
        return {}
    found = {name: record_in(reply.content, name, ArrayRecord) for name in WEIGHTS}
    return {name: record for name, record in found.items() if record is not None}
