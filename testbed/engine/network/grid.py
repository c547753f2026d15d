"""FleetGrid: a Flower Grid that connects a ServerApp to the simulated fleet.

Only this module charges the ledger, advances virtual time and feeds the taps. A ServerApp sees an
ordinary Flower Grid: late, offline, infeasible and failed devices answer with errors.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from numpy.typing import NDArray
from torch import Tensor

from server.broadcast import Answer
from testbed.core.state_dicts import below, under
from testbed.engine.hosts.backend import Backend
from testbed.engine.hosts.broadcast import NOT_ADDRESSED
from testbed.engine.hosts.host import (
    FIRST_NODE,
    RUN_ID,
    SERVER_NODE,
    Delivery,
    SameDelivery,
    device_of,
    message_id,
    node_of,
    set_identity,
)
from testbed.engine.network.clock import RoundClock, is_last_step
from testbed.engine.network.costs import DeviceCosts, device_costs
from testbed.engine.network.dispatch import Dispatcher
from testbed.engine.network.ledger import Charge, Ledger
from testbed.engine.network.packet_loss import PacketLoss
from testbed.engine.network.radios import TrainingRadios
from testbed.engine.network.taps import Tap
from testbed.engine.setting.models import ArmModels
from testbed.engine.setting.run_context import RunContext
from testbed.fleet.cost_model import cloud_step_ms
from testbed.fleet.link_effects import RadioTimers
from testbed.wire import protocol
from testbed.wire.records import config_number, record_in, tier_of

RADIO, TAP = "radio.", "tap."
FLOAT_BYTES = 4
CHARGED_AT_ONCE = 1 << 16  # devices; bounds the columns of a charge
REPLY_HEADERS_BYTES = 1 << 16  # names, shapes and types of the arrays


@dataclass(frozen=True)
class GridOptions:
    """The scenario's settings of the Grid.

    Attributes
    ----------
    online : (device, virtual seconds, draw) -> whether the device can be reached.
    offline_noticed_ms : until the server knows that a device is offline; None: it cannot know.
    cloud_step_ms : images by tier -> virtual time of one training step of the cloud model.
    radio : radios that sleep; None: none does.
    packet_loss : which transmissions are lost and repeated.
    largest_reply_bytes : larger replies are refused; default: the limit of Flower's transport.
    """

    round_deadline_ms: float
    shard_size: int
    online: Callable[[int, float, int], bool]
    cloud_step_ms: Callable[[Mapping[int, int]], float]
    offline_noticed_ms: float | None = None
    radio: RadioTimers | None = None
    packet_loss: PacketLoss = field(default_factory=PacketLoss)
    largest_reply_bytes: int = 2**31 - 1


@dataclass(frozen=True)
class RequestCharges:
    """The charges of one request: sending the features, and receiving the answer.

    Attributes
    ----------
    raw : whether the device sent the raw image instead of features.
    """

    features: Charge
    answer: Charge | None = None
    raw: bool = False


class MessageGrid(Grid):
    """A Grid that creates Flower's ordinary messages."""

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to a node."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)


class FleetGrid(MessageGrid):
    """Carries messages to the devices' hosts, and charges their costs in virtual time.

    Parameters
    ----------
    backend : where the hosts run.
    costs : of this arm's front-ends on each device.
    taps : intercept the features of serving requests, and of training images where asked for.
    """

    def __init__(
        self,
        backend: Backend,
        costs: DeviceCosts,
        ledger: Ledger,
        taps: Sequence[Tap],
        options: GridOptions,
    ) -> None:
        set_identity()
        self.costs = costs
        self._taps = taps
        self._options = options
        self._clock = RoundClock(
            options.round_deadline_ms, options.cloud_step_ms, options.offline_noticed_ms
        )
        self._radios = TrainingRadios(options.radio, costs.fleet.rtt_ms)
        self._dispatcher = Dispatcher(backend, options.shard_size)
        self._run = Run.create_empty(RUN_ID)
        self.ledger = ledger
        self.request_charges: dict[int, RequestCharges] = {}
        self.request_status: dict[int, str] = {}
        self.errors: list[str] = []
        self._message_count = 0
        self._replies: dict[str, Message] = {}

    @property
    def clock_ms(self) -> float:
        """Return the virtual time since the arm's start."""
        return self._clock.now_ms

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a checkpoint keeps: the ledger, the clock, the counters, what taps read."""
        columns = self.ledger.state() | under(RADIO, self._radios.state())
        tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
        for tap in self._taps:
            tensors |= under(f"{TAP}{tap.name}.", tap.state())
        plain = {
            "clock_ms": self.clock_ms,
            "message_count": self._message_count,
            "errors": self.errors,
        }
        return tensors, plain

    def load_state(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""
        for tap in self._taps:
            tap.load_state(below(f"{TAP}{tap.name}.", tensors))
        columns = {n: value.numpy() for n, value in tensors.items() if not n.startswith(TAP)}
        self.ledger.load_state(columns)
        self._radios.load_state(below(RADIO, columns))
        self._clock.now_ms = plain["clock_ms"]
        self._message_count = plain["message_count"]
        self.errors = plain["errors"]

    def charge_radio(self, device: int, wake_ms: float, energy_mj: float | None) -> None:
        """Charge a radio's wake-ups and tails, known only when all requests are timed."""
        self.ledger.charge(device, "serve", Charge(0, 0, 0.0, wake_ms, 0.0, energy_mj, energy_mj))

    def sleeping_radios(self) -> NDArray[np.bool_]:
        """Return whether each device's radio is of a kind that sleeps (N,)."""
        return self._radios.sleeping(self.costs.devices)

    def end_training(self) -> None:
        """Charge the tails that follow the last round."""
        for device, charge in self._radios.finish().items():
            self.ledger.charge(device, "train", charge)

    # Flower's Grid -----------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """Return the run."""
        return self._run

    def get_node_ids(self) -> list[int]:
        """Return the node ids of the whole fleet."""
        return [node_of(device) for device in range(self._connected)]

    @property
    def _connected(self) -> int:
        """How many devices of the fleet, from the first on, are connected: all."""
        return self.costs.devices

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Exchange the messages at once; keep their replies until they are pulled."""
        batch = list(messages)
        for message, reply in zip(batch, self._exchange(batch), strict=True):
            self._replies[message.metadata.message_id] = reply
        return [message.metadata.message_id for message in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have not been pulled yet."""
        wanted = [identifier for identifier in message_ids if identifier in self._replies]
        return [self._replies.pop(identifier) for identifier in wanted]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Exchange the messages and return one reply per message, in their order.

        ``timeout`` is ignored: it is host time, and the scenario's deadlines are virtual.
        """
        return self._exchange(list(messages))

    def broadcast(self, message_type: str, contents: Sequence[RecordDict]) -> list[Answer] | None:
        """Enrol every device, or deploy on it, and charge it, without a message per device.

        Bytes, times, energies and answers are those of a message to each. None: the hosts' app
        must run for every device (``Host.broadcast``).

        Parameters
        ----------
        contents : one per tier, or one for all.
        """
        devices = np.arange(self._connected)
        enrols = message_type == protocol.ENROL
        fits = self.costs.training_feasible if enrols else self.costs.serving_feasible
        of_tier = self.costs.tier_of if len(contents) > 1 else np.zeros_like(self.costs.tier_of)
        content_of = np.where(fits, of_tier.astype(np.int16), NOT_ADDRESSED)[devices]
        found = self._dispatcher.broadcast(message_type, contents, content_of)
        if found is None or any(self._too_large(item.delivery) for item in found):
            return None
        self._message_count += len(devices)
        answers = []
        for item in found:
            for start in range(0, len(item.devices), CHARGED_AT_ONCE):
                self._charge_all(message_type, contents, content_of, item, start)
            answers.append(Answer(item.delivery.reply, FIRST_NODE + item.devices))
        refused = devices[content_of == NOT_ADDRESSED]
        if len(refused):
            message = Message(RecordDict(), node_of(int(refused[0])), message_type)
            answers.append(Answer(Message(_infeasible(), reply_to=message), FIRST_NODE + refused))
        return answers

    def _charge_all(
        self,
        message_type: str,
        contents: Sequence[RecordDict],
        content_of: NDArray[np.int16],
        item: SameDelivery,
        start: int,
    ) -> None:
        """Charge some of the devices of one answer."""
        devices = item.devices[start : start + CHARGED_AT_ONCE]
        first = int(devices[0])
        message = Message(contents[int(content_of[first])], node_of(first), message_type)
        lost = self._options.packet_loss.of_all(message, devices)
        charges = self.costs.charge_all(devices, item.delivery, lost)
        charges = self._radios.alone_all(devices, charges)
        self.ledger.charge_all(devices, _phase(message_type), charges)

    # The exchange ------------------------------------------------------------------------------

    def _exchange(self, messages: list[Message]) -> list[Message]:
        if not messages:
            return []
        for message in messages:
            self._message_count += 1
            message.metadata.__dict__["_message_id"] = message_id(self._message_count)
        self._clock.begin_exchange(messages[0])
        self._dispatcher.begin(messages)
        replies: dict[int, Message] = {}
        carried: list[int] = []
        finished_ms: list[float] = []
        for index, message in enumerate(messages):
            refusal = self._refusal(message)
            if refusal is None:
                carried.append(index)
            else:
                replies[index] = Message(refusal, reply_to=message)
                self._note_status(message, refusal)
                if message.metadata.message_type in protocol.TRAINING and (
                    refusal.code == protocol.OFFLINE
                ):
                    finished_ms.append(self._clock.gives_up_ms(message))
        deliveries = self._dispatcher.run([messages[index] for index in carried])
        for index, delivery in zip(carried, deliveries, strict=True):
            replies[index], finish_ms = self._account(messages[index], delivery)
            finished_ms.append(finish_ms)
        if messages[0].metadata.message_type in protocol.TRAINING:
            self._clock.end_exchange(messages[0], finished_ms)
        return [replies[index] for index in range(len(messages))]

    def _refusal(self, message: Message) -> Error | None:
        """Return why a message does not reach its device, or None if it does."""
        device, message_type = _address(message)
        if not self._fits(device, message_type, message) and not _needs_no_front_end(message):
            return _infeasible()
        if message_type == protocol.FORWARD and config_number(message.content, protocol.STEP) == 0:
            at_s, draw = self._clock.round_start_ms / 1000.0, 2 * int(message.metadata.group_id)
        elif message_type == protocol.INFER:
            at_s = config_number(message.content, protocol.ARRIVAL_S)
            draw = 2 * int(config_number(message.content, protocol.REQUEST)) + 1
        else:
            return None
        if self._options.online(device, at_s, draw):
            return None
        if message_type == protocol.FORWARD:
            self.ledger.count(device, "offline")
        return Error(protocol.OFFLINE, "the device is offline")

    def _fits(self, device: int, message_type: str, message: Message) -> bool:
        """Return whether the front-end that a message needs fits the device's memory."""
        if message_type in protocol.TRAINING:  # of the message's tier, maybe not the device's own
            return self.costs.can_train(device, tier_of(message.content))
        if message_type == protocol.ENROL:
            return self.costs.can_train(device)
        return self.costs.can_serve(device)

    def _account(self, message: Message, delivery: Delivery) -> tuple[Message, float]:
        """Charge one delivery, feed the taps, and return the reply with its virtual arrival."""
        device, message_type = _address(message)
        reply = self._accepted(message, delivery)
        failed = reply.has_error()
        examples = 0 if failed else _examples(message_type, reply)
        retransmissions = self._options.packet_loss.of(message, device)
        tier = tier_of(message.content) if message_type in protocol.TRAINING else None
        charge = self.costs.charge(device, message_type, examples, delivery, retransmissions, tier)
        charge, finish_ms = self._with_radio(device, message_type, message, charge)
        self.ledger.charge(device, _phase(message_type), charge)
        if failed:
            self.ledger.count(device, "failed")
            self.errors.append(reply.error.reason or "")
            self._note_status(message, reply.error)
            return reply, finish_ms
        for tap in self._taps:
            tap.read(device, message, reply)
        if message_type in protocol.SERVING:
            self._note_request(message, reply, charge)
        if message_type in protocol.TRAINING:
            if finish_ms > self._clock.due_ms(message):
                self.ledger.count(device, "stragglers")
                late = Error(protocol.STRAGGLER, "the reply came after the deadline")
                return Message(late, reply_to=message), finish_ms
            if message_type == protocol.FORWARD:
                self._clock.arrived(examples, tier_of(message.content))
            elif is_last_step(message):
                self.ledger.count(device, "participations")
        return reply, finish_ms

    def _with_radio(
        self, device: int, message_type: str, message: Message, charge: Charge
    ) -> tuple[Charge, float]:
        """Add the radio's wake-ups and tails; return the charge and when the reply arrives.

        Those of requests are added when all requests are timed (``charge_radio``).
        """
        if message_type in protocol.TRAINING:
            first = message_type == protocol.FORWARD and (
                config_number(message.content, protocol.STEP) == 0
            )
            return self._radios.in_round(device, charge, self.clock_ms, first)
        if message_type in (protocol.ENROL, protocol.DEPLOY):
            charge = self._radios.alone(device, charge)
        return charge, self.clock_ms

    def _accepted(self, message: Message, delivery: Delivery) -> Message:
        """Return the reply, or an error if it is too large; its full size is charged."""
        if not self._too_large(delivery):
            return delivery.reply
        device = device_of(message.metadata.dst_node_id)
        reason = (
            f"device {device}: a reply of {delivery.uplink_bytes} bytes, more than the "
            f"{self._options.largest_reply_bytes} that any reply of this arm can need"
        )
        return Message(Error(protocol.FAILED, reason), reply_to=message)

    def _too_large(self, delivery: Delivery) -> bool:
        return delivery.uplink_bytes > self._options.largest_reply_bytes

    def _note_request(self, message: Message, reply: Message, charge: Charge) -> None:
        if message.metadata.message_type == protocol.INFER:
            request = int(message.metadata.group_id)
            self.request_charges[request] = RequestCharges(charge, raw=_is_raw(reply))
        elif message.metadata.message_type == protocol.ANSWER:
            request = int(message.metadata.group_id)
            self.request_charges[request] = replace(self.request_charges[request], answer=charge)

    def _note_status(self, message: Message, error: Error) -> None:
        if message.metadata.message_type == protocol.INFER:
            status = protocol.STATUS_OF_CODE[error.code]
            self.request_status[int(message.metadata.group_id)] = status


def _address(message: Message) -> tuple[int, str]:
    """Return the device that a message goes to, and the message's type."""
    metadata = message.metadata
    return device_of(metadata.dst_node_id), metadata.message_type


def _phase(message_type: str) -> str:
    """Return the phase of the ledger that a message is charged to."""
    return "serve" if message_type in protocol.SERVING else "train"


def _infeasible() -> Error:
    return Error(protocol.INFEASIBLE, "the front-end does not fit the device's memory")


def _examples(message_type: str, reply: Message) -> int:
    """Return how many images the device processed, according to its reply."""
    if message_type == protocol.INFER:
        return 0 if _is_raw(reply) else 1
    metrics = record_in(reply.content, protocol.METRICS, MetricRecord)
    count = metrics[protocol.BATCH_IMAGES] if metrics and protocol.BATCH_IMAGES in metrics else 0
    return max(0, count) if isinstance(count, int) else 0  # the server rejects the others


def _is_raw(reply: Message) -> bool:
    return record_in(reply.content, protocol.RAW_IMAGE, ArrayRecord) is not None


def _needs_no_front_end(message: Message) -> bool:
    """Return whether every device can handle a message: a raw request or an answer."""
    if message.metadata.message_type == protocol.INFER:
        return bool(message.content.config_records[protocol.CONFIG].get(protocol.RAW, False))
    return message.metadata.message_type == protocol.ANSWER


def run_server_app(grid: FleetGrid, main: Callable[[Grid], None]) -> None:
    """Run a Flower ServerApp with this main function on a Grid."""
    app = ServerApp()
    app.main()(lambda app_grid, context: main(app_grid))
    app(grid, Context(RUN_ID, SERVER_NODE, {}, RecordDict(), {}))


def fleet_grid(run_context: RunContext, models: ArmModels, taps: Sequence[Tap]) -> FleetGrid:
    """Return the Grid of an arm: the scenario's devices and links, with the given taps."""
    inputs = run_context.inputs
    scenario = inputs.scenario
    noticed_s = scenario.training.offline_noticed_after_s
    paths = [tier.cloud_stats for tier in models.tiers]
    options = GridOptions(
        round_deadline_ms=scenario.training.round_deadline_s * 1000.0,
        shard_size=scenario.engine.shard_size,
        online=inputs.online(),
        cloud_step_ms=lambda images: cloud_step_ms(inputs.cloud_device, paths, images),
        offline_noticed_ms=None if noticed_s is None else noticed_s * 1000.0,
        radio=inputs.radio_timers,
        packet_loss=PacketLoss(scenario.fleet.loss_probability, scenario.seed),
        largest_reply_bytes=largest_reply_bytes(models),
    )
    costs = device_costs(inputs, models)
    return FleetGrid(run_context.backend, costs, Ledger(len(inputs.fleet)), taps, options)


def largest_reply_bytes(models: ArmModels) -> int:
    """Return a size that no honest reply of the arm's devices exceeds.

    It is twice the size of a tier's weights, moments and one batch together. A batch is its targets
    and its uncompressed features or images, whichever are larger.
    """
    largest = 0
    for tier in models.tiers:
        device_spec = tier.device_spec
        sent = [*tier.edge.own_weights().values(), *tier.edge.initial_moments().values()]
        weights = sum(value.numel() for value in sent)
        features = math.prod(tier.edge.front_end.feature_shape)
        image = max(features, math.prod(device_spec.image_shape))
        largest = max(largest, weights + device_spec.batch_size * (image + device_spec.num_classes))
    return 2 * FLOAT_BYTES * largest + REPLY_HEADERS_BYTES
