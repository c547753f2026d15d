"""A host: one process that simulates many devices by running their ClientApp."""

import logging
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import psutil
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from clients.device_spec import DeviceSpec
from clients.edge import DeviceData, EdgeApp, build_client_app
from testbed.core.errors import without_addresses
from testbed.core.grouping import equal_rows
from testbed.core.process import PEAK_MEMORY
from testbed.core.threads import torch_threads
from testbed.data.device_rows import ImagesOfDevices
from testbed.engine.hosts.broadcast import Broadcast
from testbed.wire import protocol
from testbed.wire.arrays import quicken
from testbed.wire.size import serialised_bytes

AppBuilder = Callable[[DeviceData], ClientApp]
"""Builds the ClientApp of a process from its devices' images."""

RUN_ID = 1
SERVER_NODE = 1
FIRST_NODE = 2**62
_LOG = logging.getLogger(__name__)
NOT_ON_THE_WIRE = frozenset({protocol.INFER})  # a request starts on the device itself


def set_identity() -> None:
    """Set the identity that Flower's messages need outside Flower's own runtime."""
    TaskIdentity.run_id = RUN_ID
    TaskIdentity.node_id = SERVER_NODE
    TaskIdentity.task_id = 1


def message_id(number: int) -> str:
    """Return a message's id, as long as Flower's own, so that sizes are right and constant."""
    return f"{number:064x}"


def node_of(device: int) -> int:
    """Return the Flower node id of a device; all have the same width, like Flower's own."""
    return FIRST_NODE + device


def device_of(node: int) -> int:
    """Return the device of a Flower node id."""
    return node - FIRST_NODE


@dataclass(frozen=True)
class Delivery:
    """A device's reply and the serialised size of both messages, in bytes."""

    reply: Message
    downlink_bytes: int
    uplink_bytes: int


@dataclass(frozen=True)
class SameDelivery:
    """A delivery, and the devices whose own differ from it in nothing but addresses."""

    delivery: Delivery
    devices: NDArray[np.int64]


@dataclass(frozen=True)
class Usage:
    """The cost of a process of the simulation; never part of the results."""

    cpu_s: float
    peak_rss_mb: float


def process_usage() -> Usage:
    """Measure this process."""
    times = psutil.Process(os.getpid()).cpu_times()
    return Usage(times.user + times.system, PEAK_MEMORY.total_mb())


def edge_app(device_specs: Sequence[DeviceSpec]) -> AppBuilder:
    """Return the builder of an arm's ClientApp, with one front-end per tier."""
    return partial(build_client_app, device_specs, keep_in_memory=True)


@dataclass(frozen=True)
class HostData:
    """The devices' images: one shared read-only array and each device's rows in it."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    device_rows: Sequence[NDArray[np.int64]]

    def training(self, device: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the device's training images and labels."""
        rows = self.device_rows[device]
        return self.images[rows], self.labels[rows]

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many training images each device has (N,); not kept: 8 bytes per device."""
        rows = self.device_rows
        if isinstance(rows, ImagesOfDevices):
            return rows.lengths
        return np.array([len(of_device) for of_device in rows], dtype=np.int64)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return one image (C, H, W)."""
        image: NDArray[np.uint8] = self.images[index]
        return image


class _States:
    """The state of Flower's contexts between messages: each distinct state is stored once.

    A host's state is the deployed front-end, whose records all devices of a tier share. A device
    takes 2 bytes, or 8 if there are more distinct states than 2 bytes can number.
    """

    def __init__(self, devices: int) -> None:
        self._number_of: NDArray[Any] = np.full(devices, -1, dtype=np.int16)
        self._distinct: dict[int, RecordDict] = {}
        self._holders: dict[int, int] = {}
        self._numbers: dict[tuple[tuple[str, int], ...], int] = {}
        self._next = 0

    def clear(self) -> None:
        """Forget all states."""
        self._number_of[:] = -1
        self._distinct, self._holders, self._numbers = {}, {}, {}
        self._next = 0

    def numbers(self, devices: NDArray[np.int64]) -> NDArray[np.integer[Any]]:
        """Return a number for each device; those with the same number have the same state."""
        numbers: NDArray[np.integer[Any]] = self._number_of[devices]
        return numbers

    def of(self, device: int) -> RecordDict:
        """Return a device's state as a new dictionary."""
        number = int(self._number_of[device])
        return RecordDict(dict(self._distinct[number].items()) if number >= 0 else None)

    def keep(self, device: int, state: RecordDict) -> None:
        """Store a device's state; states are equal if their records are the same objects."""
        if state or self._number_of[device] >= 0:
            self.keep_all(np.array([device]), state)

    def keep_all(self, devices: NDArray[np.int64], state: RecordDict) -> None:
        """Store one state for devices whose states were equal before."""
        before = int(self._number_of[devices[0]])
        number = self._numbered(state) if state else -1
        if number == before:
            return
        if number >= 0:
            self._holders[number] += len(devices)
            if number > np.iinfo(self._number_of.dtype).max:
                self._number_of = self._number_of.astype(np.int64)
        self._number_of[devices] = number
        if before >= 0:
            self._holders[before] -= len(devices)
            if not self._holders[before]:
                del self._numbers[_identity(self._distinct.pop(before))], self._holders[before]

    def _numbered(self, state: RecordDict) -> int:
        key = _identity(state)
        if key not in self._numbers:
            self._numbers[key] = self._next
            self._distinct[self._next], self._holders[self._next] = state, 0
            self._next += 1
        return self._numbers[key]


def _identity(state: RecordDict) -> tuple[tuple[str, int], ...]:
    return tuple((name, id(record)) for name, record in state.items())


class Host:
    """Runs the installed ClientApp for any of the fleet's devices, one message at a time."""

    def __init__(self, data: HostData) -> None:
        set_identity()
        self._app: ClientApp | None = None
        self.hold(data)

    def hold(self, data: HostData) -> None:
        """Take over the devices and their images; earlier ones are forgotten."""
        self._data = data
        self._states = _States(len(data.device_rows))

    def install_app(self, build: AppBuilder) -> None:
        """Install a ClientApp on all devices; earlier state is lost."""
        self._app = build(self._data)
        self._states.clear()

    def handle(self, messages: list[Message]) -> list[Delivery]:
        """Run the addressed devices; a failing device does not affect the others."""
        assert self._app is not None
        sizes: dict[int, int] = {}
        replies = []
        with torch_threads(1):
            for message in messages:
                reply, state = self._run(self._app, message)
                self._states.keep(device_of(message.metadata.dst_node_id), state)
                replies.append(reply)
        # All at the end: between two devices' arithmetic, code and data would be out of the cache.
        return [_delivery(*pair, sizes) for pair in zip(messages, replies, strict=True)]

    def broadcast(
        self, broadcast: Broadcast, host: int = 0, hosts: int = 1
    ) -> list[SameDelivery] | None:
        """Run one of all devices that must answer equally, and take its reply for them all.

        Devices of the installed app answer equally that get the same content, are in the same
        state and have the same number of images, where the app says so of the type of the message
        (``EdgeApp.uniform``).

        Returns
        -------
        None : the app does not say so, or a device failed; each must get a message of its own.
        """
        app = self._app
        if not isinstance(app, EdgeApp) or broadcast.message_type not in app.uniform:
            return None
        devices = broadcast.of_host(host, hosts)
        groups = equal_rows(
            broadcast.content_of[devices], self._states.numbers(devices), self._data.counts[devices]
        )
        answers: list[SameDelivery] = []
        states: list[RecordDict] = []
        with torch_threads(1):
            for members in groups:
                first = int(devices[members[0]])
                content = broadcast.contents[int(broadcast.content_of[first])]
                message = Message(content, node_of(first), broadcast.message_type)
                message.metadata.__dict__["_message_id"] = message_id(first)
                delivery, state = self._answer(app, message, {})
                if delivery.reply.has_error():
                    return None
                answers.append(SameDelivery(delivery, devices[members]))
                states.append(state)
        for answer, state in zip(answers, states, strict=True):
            self._states.keep_all(answer.devices, state)
        return answers

    def _answer(
        self, app: ClientApp, message: Message, sizes: dict[int, int]
    ) -> tuple[Delivery, RecordDict]:
        """Run a device; return its delivery, and its state afterwards."""
        reply, state = self._run(app, message)
        return _delivery(message, reply, sizes), state

    def _run(self, app: ClientApp, message: Message) -> tuple[Message | Exception, RecordDict]:
        """Return a device's reply or what its handler raised, and its state afterwards."""
        device = device_of(message.metadata.dst_node_id)
        context = Context(
            run_id=RUN_ID,
            node_id=node_of(device),
            node_config={"partition-id": device},
            state=self._states.of(device),
            run_config={},
        )
        try:
            return app(message, context), context.state
        except Exception as error:
            return error, context.state


def _delivery(message: Message, reply: Message | Exception, sizes: dict[int, int]) -> Delivery:
    """Return a device's reply with the sizes of both messages.

    A device whose handler failed or returned no valid reply counts as failed.
    """
    try:
        if isinstance(reply, Exception):
            raise reply
        uplink_bytes = serialised_bytes(reply)
    except Exception as error:
        device = device_of(message.metadata.dst_node_id)
        trace = _encodable("".join(traceback.format_exception(error)))
        _LOG.error("device %d failed\n%s", device, trace)
        reason = f"device {device}: {type(error).__name__}: {error}"
        reason = without_addresses(_encodable(reason))  # it is part of the results
        reply = Message(Error(protocol.FAILED, reason), reply_to=message)
        uplink_bytes = serialised_bytes(reply)
    if reply.has_content():
        quicken(reply)
    return Delivery(reply, _downlink_bytes(message, sizes), uplink_bytes)


def _encodable(text: str) -> str:
    """Return a text without characters that a message and a log cannot hold."""
    return text.encode(errors="backslashreplace").decode()


def _downlink_bytes(message: Message, sizes: dict[int, int]) -> int:
    """Return the size of a message; a shared content is serialised once."""
    if message.metadata.message_type in NOT_ON_THE_WIRE:
        return 0
    key = id(message.content)
    if key not in sizes:
        sizes[key] = serialised_bytes(message)
    return sizes[key]
