"""Lost transmissions: which are lost, how often they are repeated, and how long senders wait.

Transport is reliable: a lost transmission is repeated until it arrives. Losses cost time, bytes and
energy, and make devices miss deadlines.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, Message
from numpy.typing import NDArray

from testbed.core.seeds import generator, generators
from testbed.fleet.link_effects import retried_ms
from testbed.wire import protocol
from testbed.wire.records import config_number, record_in

RETRY_AFTER_MS = 1000.0
"""Wait for an acknowledgement after the last bit: the initial timeout of RFC 6298."""

MOST_ATTEMPTS = 1000  # never reached with a loss probability below one half


class Retransmissions:
    """Draws the losses of one message and its reply, in the order in which they are sent."""

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
    """The probability of a loss; the same message is lost equally often in every arm."""

    probability: float = 0.0
    seed: int = 0

    def of(self, message: Message, device: int) -> Retransmissions:
        """Return the retransmissions of one message and its reply.

        They depend on the device and on the message's round, step or request, not on how many
        messages were sent before. Neither hosts nor interruptions change them.
        """
        if self.probability == 0.0:
            return Retransmissions()
        keys = (device, *_round_and_step(message))
        return Retransmissions(self.probability, generator(self.seed, _purpose(message), *keys))

    def of_all(
        self, message: Message, devices: NDArray[np.int64]
    ) -> Iterator[Retransmissions] | None:
        """Yield ``of`` for the same message to each of many devices; None: nothing is lost.

        Each must have drawn before the next is asked for.
        """
        if self.probability == 0.0:
            return None
        streams = generators(self.seed, _purpose(message), devices, *_round_and_step(message))
        return (Retransmissions(self.probability, rng) for rng in streams)


def _purpose(message: Message) -> str:
    return f"loss of {message.metadata.message_type}"


def _round_and_step(message: Message) -> tuple[int, int]:
    group = message.metadata.group_id
    config = record_in(message.content, protocol.CONFIG, ConfigRecord)
    stepped = config is not None and protocol.STEP in config
    step = int(config_number(message.content, protocol.STEP)) if stepped else 0
    return int(group) if group.isdigit() else 0, step
