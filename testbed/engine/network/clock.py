"""Virtual time: when a training round starts, when its replies are due, and when a step ends."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flwr.app import Message

from testbed.wire import protocol
from testbed.wire.records import config_number


@dataclass
class RoundClock:
    """The virtual clock of one arm, and the training round that it is in.

    Attributes
    ----------
    round_deadline_ms : from a round's start to the last reply that counts.
    offline_noticed_ms : from a message's start until the server knows that its device is offline;
        None: it cannot know, and waits until the reply is due.
    cloud_step_ms : images by tier -> virtual time of one training step of the cloud model.
    now_ms, round_start_ms : virtual times since the arm's start.
    """

    round_deadline_ms: float
    cloud_step_ms: Callable[[Mapping[int, int]], float]
    offline_noticed_ms: float | None = None
    now_ms: float = 0.0
    round_start_ms: float = 0.0
    _round: str = ""
    _images_at_cloud: Counter[int] = field(default_factory=Counter)

    def begin_exchange(self, message: Message) -> None:
        """Start a round at its first message; add the cloud's step before gradients go out."""
        message_type, server_round = message.metadata.message_type, message.metadata.group_id
        if message_type == protocol.FORWARD:
            self._images_at_cloud = Counter()
            if server_round != self._round:
                self._round, self.round_start_ms = server_round, self.now_ms
        elif message_type == protocol.BACKWARD:
            self.now_ms += self.cloud_step_ms(self._images_at_cloud)

    def arrived(self, images: int, tier: int) -> None:
        """Add images of a tier to the batch of the cloud's next step."""
        self._images_at_cloud[tier] += images

    def due_ms(self, message: Message) -> float:
        """Return when replies to a training message are due.

        The round's deadline is spread evenly over its half-steps: a forward exchange that waits
        for a late device must leave the others time for the way back.
        """
        step, steps = _step_of(message)
        half_steps = 2 * step + (2 if message.metadata.message_type == protocol.BACKWARD else 1)
        return self.round_start_ms + self.round_deadline_ms * half_steps / (2 * steps)

    def gives_up_ms(self, message: Message) -> float:
        """Return when the server stops to wait for the reply of a device that is offline."""
        due_ms = self.due_ms(message)
        if self.offline_noticed_ms is None:
            return due_ms
        return min(due_ms, self.now_ms + self.offline_noticed_ms)

    def end_exchange(self, message: Message, finished_ms: list[float]) -> None:
        """Advance to the last reply of a training exchange, or to its deadline if that is earlier.

        Parameters
        ----------
        finished_ms : arrival of each reply, or when the server gave up waiting for it; without
            any, the deadline is waited for.
        """
        due_ms = self.due_ms(message)
        last_ms = max(finished_ms, default=due_ms)
        self.now_ms = max(self.now_ms, min(last_ms, due_ms))


def is_last_step(message: Message) -> bool:
    """Say whether a training message belongs to the last step of its round."""
    step, steps = _step_of(message)
    return step == steps - 1


def _step_of(message: Message) -> tuple[float, float]:
    """Return a training message's step within its round, and the number of steps."""
    return (
        config_number(message.content, protocol.STEP),
        config_number(message.content, protocol.STEPS),
    )
