"""FleetGrid: the wire between a ServerApp and the simulated fleet.

The only place that charges the ledger, advances virtual time and feeds the taps. A ServerApp
sees an ordinary Flower Grid: late, offline, infeasible and failed devices answer with errors.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from torch import Tensor

from testbed.engine.hosts.backend import Backend
from testbed.engine.hosts.host import RUN_ID, Delivery, device_of, node_of, set_identity
from testbed.engine.network.costs import DeviceCosts, device_costs
from testbed.engine.network.ledger import Charge, Ledger
from testbed.engine.network.packet_loss import PacketLoss
from testbed.engine.network.taps import Tap
from testbed.engine.setting.models import ArmModels
from testbed.engine.setting.run_context import RunContext
from testbed.fleet.cost_model import training_step_ms
from testbed.wire import protocol
from testbed.wire.records import config_number, tier_of

FLOAT_BYTES = 4
REPLY_HEADERS_BYTES = 1 << 16  # names, shapes and types of the arrays


@dataclass(frozen=True)
class GridOptions:
    """What the wire needs to know of the scenario.

    Attributes
    ----------
    online : (device, virtual seconds, draw) -> whether the device can be reached.
    cloud_step_ms : images -> virtual time of one training step of the cloud model.
    losses : which transmissions are lost and repeated.
    largest_reply_bytes : larger ones are refused; the default is what Flower's own transport takes.
    """

    round_deadline_ms: float
    shard_size: int
    online: Callable[[int, float, int], bool]
    cloud_step_ms: Callable[[int], float]
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


class FleetGrid(Grid):
    """Carries messages to hosts in shards, and keeps virtual time.

    Parameters
    ----------
    backend : where the hosts run.
    costs : what this arm's front-end costs on each device.
    taps : read the features of serving requests.
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
        self._backend = backend
        self.costs = costs
        self._taps = taps
        self._options = options
        self._run = Run.create_empty(RUN_ID)
        self.ledger = ledger
        self.clock_ms = 0.0
        self.request_charges: dict[int, RequestCharges] = {}
        self.request_status: dict[int, str] = {}
        self.errors: list[str] = []
        self._round_group = ""
        self._round_start_ms = 0.0
        self._round_hosts: dict[int, int] = {}
        self._images_at_cloud = 0
        self._message_count = 0
        self._replies: dict[str, Message] = {}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what has to survive between two rounds: the ledger, the clock and the counters."""
        tensors = {name: torch.from_numpy(column) for name, column in self.ledger.state().items()}
        plain = {
            "clock_ms": self.clock_ms,
            "message_count": self._message_count,
            "errors": self.errors,
        }
        return tensors, plain

    def load_state(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self.ledger.load_state({name: value.numpy() for name, value in tensors.items()})
        self.clock_ms = plain["clock_ms"]
        self._message_count = plain["message_count"]
        self.errors = plain["errors"]

    def charge_radio(self, device: int, energy_mj: float | None) -> None:
        """Charge a radio's wake-up and tail, which depend on everything the device sends."""
        self.ledger.charge(device, "serve", Charge(0, 0, 0.0, 0.0, 0.0, energy_mj))

    # Flower's Grid -----------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Set the run; the testbed runs one at a time."""
        self._run = run

    @property
    def run(self) -> Run:
        """Return the run."""
        return self._run

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

    def get_node_ids(self) -> list[int]:
        """Return the node ids of the whole fleet."""
        return [node_of(device) for device in range(self.costs.devices)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Carry the messages at once; their replies wait to be pulled."""
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
        """Carry the messages and return one reply per message, in the order of the messages.

        ``timeout`` is host time and means nothing in virtual time: deadlines are the scenario's.
        """
        return self._exchange(list(messages))

    # The wire ----------------------------------------------------------------------------------

    def _exchange(self, messages: list[Message]) -> list[Message]:
        if not messages:
            return []
        for message in messages:
            self._message_count += 1
            # As long as Flower's own ids, so that sizes are true and do not grow with the count.
            message.metadata.__dict__["_message_id"] = f"{self._message_count:064x}"
        self._advance_to(messages[0])
        replies: dict[int, Message] = {}
        carried: list[int] = []
        for index, message in enumerate(messages):
            refusal = self._refusal(message)
            if refusal is None:
                carried.append(index)
            else:
                replies[index] = Message(refusal, reply_to=message)
                self._note_status(message, refusal)
        deliveries = self._dispatch([messages[index] for index in carried])
        finished: list[float] = []
        for index, delivery in zip(carried, deliveries, strict=True):
            replies[index], finish_ms = self._account(messages[index], delivery)
            finished.append(finish_ms)
        if messages[0].metadata.message_type in protocol.TRAINING:
            self._close_step(messages[0], finished)
        return [replies[index] for index in range(len(messages))]

    def _advance_to(self, message: Message) -> None:
        """Start a round at its first message; let the cloud's step pass before gradients go out."""
        message_type, group = message.metadata.message_type, message.metadata.group_id
        if message_type == protocol.FORWARD and group != self._round_group:
            self._round_group = group
            self._round_start_ms = self.clock_ms
            self._round_hosts = {}
        if message_type == protocol.FORWARD:
            self._images_at_cloud = 0
        if message_type == protocol.BACKWARD:
            self.clock_ms += self._options.cloud_step_ms(self._images_at_cloud)

    def _refusal(self, message: Message) -> Error | None:
        """Return why a device cannot get this message at all, or None."""
        device, message_type = (
            device_of(message.metadata.dst_node_id),
            message.metadata.message_type,
        )
        if not self._fits(device, message) and not _needs_no_front_end(message):
            return Error(protocol.INFEASIBLE, "the front-end does not fit the device's memory")
        if message_type == protocol.FORWARD and config_number(message.content, protocol.STEP) == 0:
            at_s, draw = self._round_start_ms / 1000.0, 2 * int(message.metadata.group_id)
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

    def _fits(self, device: int, message: Message) -> bool:
        """Say whether the front-end that the message is about fits the device's memory."""
        message_type = message.metadata.message_type
        if message_type in protocol.TRAINING:  # perhaps another tier's (server.split_federated)
            return self.costs.can_train(device, tier_of(message.content))
        if message_type == protocol.ENROL:
            return self.costs.can_train(device)
        return self.costs.can_serve(device)

    def _dispatch(self, messages: list[Message]) -> list[Delivery]:
        """Cut the messages into fixed-size shards of devices, and run each on its host."""
        by_device: dict[int, list[int]] = {}
        for index, message in enumerate(messages):
            by_device.setdefault(message.metadata.dst_node_id, []).append(index)
        nodes = sorted(by_device)
        size = self._options.shard_size
        shards: list[tuple[int, list[int]]] = []
        for start in range(0, len(nodes), size):
            group = nodes[start : start + size]
            for host in sorted({self._host_of(node, start // size, messages[0]) for node in group}):
                members = [n for n in group if self._host_of(n, start // size, messages[0]) == host]
                shards.append((host, [index for node in members for index in by_device[node]]))
        results = self._backend.handle(
            [(host, [messages[index] for index in indices]) for host, indices in shards]
        )
        ordered: dict[int, Delivery] = {}
        for (_, indices), deliveries in zip(shards, results, strict=True):
            ordered |= dict(zip(indices, deliveries, strict=True))
        return [ordered[index] for index in range(len(messages))]

    def _host_of(self, node: int, shard: int, message: Message) -> int:
        """Return a node's host: fixed for the round in training, fixed for good in serving."""
        if message.metadata.message_type in protocol.TRAINING:
            return self._round_hosts.setdefault(node, shard % self._backend.hosts)
        return (device_of(node) // self._options.shard_size) % self._backend.hosts

    def _account(self, message: Message, delivery: Delivery) -> tuple[Message, float]:
        """Charge one delivery, feed the taps, and return the reply with its virtual arrival."""
        device, message_type = (
            device_of(message.metadata.dst_node_id),
            message.metadata.message_type,
        )
        phase = "serve" if message_type in protocol.SERVING else "train"
        reply = self._accepted(message, delivery)
        failed = reply.has_error()
        examples = 0 if failed else _examples(message_type, reply)
        retransmissions = self._options.packet_loss.of(message, device)
        tier = tier_of(message.content) if message_type in protocol.TRAINING else None
        charge = self.costs.charge(device, message_type, examples, delivery, retransmissions, tier)
        self.ledger.charge(device, phase, charge)
        finish_ms = self.clock_ms + charge.downlink_ms + charge.compute_ms + charge.uplink_ms
        if failed:
            self.ledger.count(device, "failed")
            self.errors.append(reply.error.reason or "")
            self._note_status(message, reply.error)
            return reply, finish_ms
        for tap in self._taps:
            tap.read(device, message, reply)
        self._note_request(message, reply, charge)
        if message_type in protocol.TRAINING:
            if finish_ms > self._deadline_ms(message):
                self.ledger.count(device, "stragglers")
                return Message(
                    Error(protocol.STRAGGLER, "the reply came after the deadline"), reply_to=message
                ), finish_ms
            if message_type == protocol.FORWARD:
                self._images_at_cloud += examples
            elif _is_last_step(message):
                self.ledger.count(device, "participations")
        return reply, finish_ms

    def _accepted(self, message: Message, delivery: Delivery) -> Message:
        """Return the reply, or an error in its place where it is too large; it is charged whole."""
        if delivery.uplink_bytes <= self._options.largest_reply_bytes:
            return delivery.reply
        device = device_of(message.metadata.dst_node_id)
        reason = (
            f"device {device}: a reply of {delivery.uplink_bytes} bytes, more than the "
            f"{self._options.largest_reply_bytes} that any reply of this arm can need"
        )
        return Message(Error(protocol.FAILED, reason), reply_to=message)

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

    def _deadline_ms(self, message: Message) -> float:
        """Return when these replies are due: the round's deadline, spread over its half-steps.

        A forward exchange that waits for somebody late must leave the others time to go back.
        """
        step, steps = (
            config_number(message.content, key) for key in (protocol.STEP, protocol.STEPS)
        )
        half_steps = 2 * step + (2 if message.metadata.message_type == protocol.BACKWARD else 1)
        return self._round_start_ms + self._options.round_deadline_ms * half_steps / (2 * steps)

    def _close_step(self, message: Message, finished: list[float]) -> None:
        """Advance the clock to the last reply, or to the deadline where replies are missing."""
        due_ms = self._deadline_ms(message)
        last_ms = max(finished, default=due_ms)
        self.clock_ms = max(self.clock_ms, min(last_ms, due_ms))


def _examples(message_type: str, reply: Message) -> int:
    """Return how many images the device worked on, from the reply it sent."""
    if message_type == protocol.INFER:
        return 0 if _is_raw(reply) else 1
    metrics = reply.content.metric_records.get(protocol.METRICS)
    count = metrics[protocol.NUM_EXAMPLES] if metrics and protocol.NUM_EXAMPLES in metrics else 0
    return max(0, count) if isinstance(count, int) else 0  # the server rejects the others


def _is_raw(reply: Message) -> bool:
    return protocol.RAW_IMAGE in reply.content.array_records


def _needs_no_front_end(message: Message) -> bool:
    """Say whether any device can handle the message: a request sent raw, and every answer."""
    if message.metadata.message_type == protocol.INFER:
        return bool(message.content.config_records[protocol.CONFIG].get(protocol.RAW, False))
    return message.metadata.message_type == protocol.ANSWER


def _is_last_step(message: Message) -> bool:
    step, steps = (config_number(message.content, key) for key in (protocol.STEP, protocol.STEPS))
    return step == steps - 1


def fleet_grid(run_context: RunContext, models: ArmModels, taps: Sequence[Tap]) -> FleetGrid:
    """Connect an arm's cloud and devices as the scenario describes, with the given taps."""
    inputs = run_context.inputs
    scenario = inputs.scenario
    options = GridOptions(
        round_deadline_ms=scenario.training.round_deadline_s * 1000.0,
        shard_size=scenario.engine.shard_size,
        online=inputs.online(),
        cloud_step_ms=lambda images: training_step_ms(
            inputs.cloud_device, models.main.cloud_stats, images
        ),
        packet_loss=PacketLoss(scenario.fleet.loss_probability, scenario.seed),
        largest_reply_bytes=largest_reply_bytes(models),
    )
    costs = device_costs(inputs, models)
    return FleetGrid(run_context.backend, costs, Ledger(len(inputs.fleet)), taps, options)


def largest_reply_bytes(models: ArmModels) -> int:
    """Return what no honest reply of the arm's devices exceeds: twice weights and a batch at once.

    A batch counts as its features or images, uncompressed, whichever are larger, and its targets.
    """
    largest = 0
    for tier in models.tiers:
        device_spec = tier.device_spec
        weights = sum(value.numel() for value in tier.edge.own_weights().values())
        features = math.prod(tier.edge.front_end.feature_shape)
        image = max(features, math.prod(device_spec.image_shape))
        largest = max(largest, weights + device_spec.batch_size * (image + device_spec.num_classes))
    return 2 * FLOAT_BYTES * largest + REPLY_HEADERS_BYTES
