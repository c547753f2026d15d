"""Lost transmissions: which, how often they are repeated, and how long the sender waits.

Transport is reliable: a lost transmission is sent again until it arrives, so that losses cost time,
bytes and energy, and deadlines decide who is late.
"""

from dataclasses import dataclass

import numpy as np
from flwr.app import Message

from testbed.core.seeds import generator
from testbed.fleet.link_effects import retried_ms
from testbed.wire import protocol
from testbed.wire.records import config_number

RETRY_AFTER_MS = 1000.0
"""How long a sender waits for the acknowledgement after its last bit: RFC 6298's first timeout."""

MOST_ATTEMPTS = 1000  # with a loss below one half, more are never needed


class Retransmissions:
    """The draws of one message and its reply, in the order in which they are sent."""

    def __init__(self, loss: float = 0.0, rng: np.random.Generator | None = None) -> None:
        self._loss = loss
        self._rng = rng

    def sent(self, once_ms: float) -> tuple[float, int]:
        """Return the milliseconds until a message has arrived, and how often it was sent."""
        if once_ms <= 0.0 or self._rng is None:
            return once_ms, 1
        return retried_ms(once_ms, once_ms + RETRY_AFTER_MS, self._loss, MOST_ATTEMPTS, self._rng)


@dataclass(frozen=True)
class PacketLoss:
    """How often transmissions are lost; the same message meets the same luck in every arm."""

    probability: float = 0.0
    seed: int = 0

    def of(self, message: Message, device: int) -> Retransmissions:
        """Return the luck of one message and its reply.

        It depends on the device and on which round, step or request the message belongs to, not
        on how many were sent before, so that neither hosts nor interruptions change it.
        """
        if self.probability == 0.0:
            return Retransmissions()
        group = message.metadata.group_id
        config = message.content.config_records.get(protocol.CONFIG)
        stepped = config is not None and protocol.STEP in config
        step = int(config_number(message.content, protocol.STEP)) if stepped else 0
        keys = (device, int(group) if group.isdigit() else 0, step)
        purpose = f"loss of {message.metadata.message_type}"
        return Retransmissions(self.probability, generator(self.seed, purpose, *keys))
