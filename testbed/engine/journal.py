"""What a host has been told that its devices remember, so that a new process can be told again.

A device keeps something from one message to the next in two cases: its front-end and optimiser
within a training round, and the front-end deployed on it. Everything a device does is a function of
(seed, device, round, step) and of these messages, so that repeating them gives equal bits.
"""

from collections.abc import Sequence

from flwr.app import Message

from testbed.core import protocol

OF_A_ROUND = frozenset({protocol.FORWARD, protocol.BACKWARD})


class Journal:
    """The messages, shard by shard, that made the present state of one host's devices."""

    def __init__(self) -> None:
        self._group = ""
        self._round: list[list[Message]] = []
        self._deployed: list[list[Message]] = []

    def clear(self) -> None:
        """Forget everything: another arm's programs are being installed."""
        self._group, self._round, self._deployed = "", [], []

    def note(self, messages: Sequence[Message]) -> None:
        """Add a shard that the host has handled; a new round ends the one before."""
        training = [item for item in messages if item.metadata.message_type in OF_A_ROUND]
        deploying = [item for item in messages if item.metadata.message_type == protocol.DEPLOY]
        if training:
            group = training[0].metadata.group_id
            if group != self._group:
                self._group, self._round = group, []
            self._round.append(training)
        if deploying:
            self._deployed.append(deploying)

    def shards(self) -> list[list[Message]]:
        """Return what has to be repeated, in order."""
        return [*self._round, *self._deployed]
