"""The device's side of every message: an ordinary Flower ClientApp.

The same app runs on Flower's runtime and on the hosts of the testbed. Flower may handle two
messages of one device in two processes, so all state goes through ``context.state`` there. A host
keeps its devices in memory for one round, which saves one forward pass per step. Both give the same
bits.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from torch import Tensor

from clients.deployed import FrontEndRunner
from clients.device_spec import DeviceSpec, compute_layout
from clients.local_training import LocalTraining
from testbed.core.compute import compute_device
from testbed.core.layers import MIN_BATCH
from testbed.wire import protocol
from testbed.wire.records import config_number, tier_of, to_lent_record, to_record, to_tensors

MAX_KEPT_BYTES = 512 << 20  # of activations per process between forward and backward
ANCHOR = "anchor"
PROXIMAL_MU = "proximal-mu"  # the key that Flower's FedProx puts into the configuration


class DeviceData(Protocol):
    """A device's own images."""

    def training(self, device: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the device's training images (n, C, H, W) and labels (n,)."""

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return one image (C, H, W) that the device's user wants to classify."""


class EdgeRuntime:
    """State shared by the handlers of one process: model, decoded weights, local trainings."""

    def __init__(self, device_spec: DeviceSpec, data: DeviceData, keep_in_memory: bool) -> None:
        self.device_spec = device_spec
        self.data = data
        self.model = device_spec.build()
        self.model.to(compute_device())
        self.keep_in_memory = keep_in_memory
        # A host sends nothing over Flower's own transport.
        self.reply_record = to_lent_record if keep_in_memory else to_record
        self.local_trainings: dict[int, LocalTraining] = {}
        self._round = -1
        self._bytes_per_image: float | None = None
        self._decoded: tuple[str, tuple[dict[str, Tensor], ...]] = ("", ())
        self._runner: tuple[str, FrontEndRunner] | None = None
        self._deployed: tuple[str, RecordDict] | None = None

    def decode(self, content: RecordDict, version: str) -> tuple[dict[str, Tensor], ...]:
        """Decode a message's parameters, statistics and moments once per process and version."""
        if self._decoded[0] != version:
            records = content.array_records
            names = (protocol.ARRAYS, protocol.STATISTICS, protocol.MOMENTS)
            decoded = tuple(to_tensors(records[n]) if n in records else {} for n in names)
            self._decoded = (version, decoded)
        return self._decoded[1]

    def begin(self, device: int, server_round: int, content: RecordDict) -> LocalTraining:
        """Start a device's round from the received weights."""
        if server_round != self._round:
            self.local_trainings.clear()
            self._round = server_round
        decoded = self.decode(content, f"round {server_round}")
        local_training = self._local_training(device, server_round, decoded, content)
        self.local_trainings[device] = local_training
        return local_training

    def _local_training(
        self,
        device: int,
        server_round: int,
        weights: tuple[dict[str, Tensor], ...],
        settings: RecordDict,
    ) -> LocalTraining:
        """Build a local training from weights and moments, and from the round's settings."""
        images, labels = self.data.training(device)
        if len(images) < MIN_BATCH:
            raise ValueError(f"a device needs {MIN_BATCH} images to train, and has {len(images)}")
        parameters, statistics, moments = weights
        proximal = PROXIMAL_MU in settings.config_records[protocol.CONFIG]
        return LocalTraining(
            self.model,
            device,
            server_round,
            images,
            labels,
            parameters,
            statistics,
            proximal_mu=float(config_number(settings, PROXIMAL_MU)) if proximal else 0.0,
            moments=moments,
            steps_before=int(config_number(settings, protocol.STEPS_BEFORE)),
        )

    def restore(self, device: int, server_round: int, context: Context) -> LocalTraining:
        """Return the device's local training, from memory or from its Flower state."""
        if self.keep_in_memory:
            return self.local_trainings[device]
        state = context.state.array_records
        kept = (protocol.ARRAYS, protocol.STATISTICS, protocol.MOMENTS)
        weights = tuple(to_tensors(state[name]) for name in kept)
        local_training = self._local_training(device, server_round, weights, context.state)
        local_training.anchor = {
            name: compute_layout(value) for name, value in to_tensors(state[ANCHOR]).items()
        }
        return local_training

    def save(self, local_training: LocalTraining, context: Context) -> None:
        """Write the local training to the device's Flower state."""
        context.state[protocol.ARRAYS] = to_record(local_training.parameters)
        context.state[protocol.STATISTICS] = to_record(local_training.statistics)
        context.state[protocol.MOMENTS] = to_record(local_training.moments)
        context.state[ANCHOR] = to_record(local_training.anchor)
        context.state[protocol.CONFIG] = ConfigRecord(
            {
                PROXIMAL_MU: local_training.proximal_mu,
                protocol.STEPS_BEFORE: local_training.steps_before,
            }
        )

    def forward(self, local_training: LocalTraining, step: int) -> tuple[Tensor, Tensor]:
        """Run a forward step; keep the activations of as many devices as the memory is for."""
        if self._bytes_per_image is None:
            saved: dict[int, int] = {}

            def measure(tensor: Tensor) -> Tensor:
                storage = tensor.untyped_storage()
                saved[storage.data_ptr()] = storage.nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(measure, lambda tensor: tensor):
                sent = local_training.forward(step)
            self._bytes_per_image = sum(saved.values()) / len(sent[0])
        else:
            sent = local_training.forward(step)
        kept = sum(other.kept_images for other in self.local_trainings.values())
        if kept * self._bytes_per_image > MAX_KEPT_BYTES:
            local_training.drop_graph()
        return sent

    def deployed(self, content: RecordDict) -> RecordDict:
        """Return the deployed front-end, one object for all devices of a host."""
        version = str(content.config_records[protocol.CONFIG][protocol.VERSION])
        if not self.keep_in_memory:
            return content
        if self._deployed is None or self._deployed[0] != version:
            self._deployed = (version, content)
        return self._deployed[1]

    def runner(self, content: RecordDict, version: str) -> FrontEndRunner:
        """Return the deployed front-end, decoded once per process and version."""
        if self._runner is None or self._runner[0] != version:
            parameters, statistics, _ = self.decode(content, version)
            self._runner = (version, FrontEndRunner(self.model, {**parameters, **statistics}))
        return self._runner[1]


class EdgeApp(ClientApp):
    """The ClientApp of the devices.

    Attributes
    ----------
    uniform : types of messages whose answer, and whose effect on the device's state, depend on
        nothing but the message's content, that state, and how many images the device has. A host
        need not run every device of a large fleet for them.
    """

    uniform = frozenset({protocol.ENROL, protocol.DEPLOY})


def build_client_app(
    device_specs: Sequence[DeviceSpec], data: DeviceData, keep_in_memory: bool = False
) -> EdgeApp:
    """Build the ClientApp of one arm.

    Parameters
    ----------
    device_specs : the software of the devices, one per tier of the fleet.
    data : the devices' images; the device id is the node's ``partition-id``.
    keep_in_memory : keep local trainings in this process between messages (testbed hosts);
        otherwise they go through ``context.state``, as Flower's runtime needs.
    """
    runtimes = [EdgeRuntime(device_spec, data, keep_in_memory) for device_spec in device_specs]
    app = EdgeApp()

    @app.query("identify")
    def identify(message: Message, context: Context) -> Message:
        metrics = MetricRecord({protocol.DEVICE: _device(context)})
        return Message(RecordDict({protocol.METRICS: metrics}), reply_to=message)

    @app.query("enrol")
    def enrol(message: Message, context: Context) -> Message:
        images, _ = data.training(_device(context))
        metrics = MetricRecord({protocol.NUM_EXAMPLES: len(images)})
        return Message(RecordDict({protocol.METRICS: metrics}), reply_to=message)

    @app.train("forward")
    def forward(message: Message, context: Context) -> Message:
        return _forward(runtimes[tier_of(message.content)], message, context)

    @app.train("backward")
    def backward(message: Message, context: Context) -> Message:
        return _backward(runtimes[tier_of(message.content)], message, context)

    @app.query("deploy")
    def deploy(message: Message, context: Context) -> Message:
        # The devices of a process share the records, so this makes no copy.
        content = runtimes[tier_of(message.content)].deployed(message.content)
        for key in (protocol.ARRAYS, protocol.STATISTICS, protocol.CONFIG):
            context.state[key] = content[key]
        return Message(RecordDict(), reply_to=message)

    @app.query("infer")
    def infer(message: Message, context: Context) -> Message:
        return _infer(runtimes[tier_of(context.state)], message, context)

    @app.query("answer")
    def answer(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    return app


def _device(context: Context) -> int:
    return int(context.node_config[protocol.DEVICE])


def _position(message: Message) -> tuple[int, int]:
    """Return the round and the step of a training message."""
    content = message.content
    server_round = int(config_number(content, protocol.SERVER_ROUND))
    return server_round, int(config_number(content, protocol.STEP))


def _forward(runtime: EdgeRuntime, message: Message, context: Context) -> Message:
    server_round, step = _position(message)
    if step == 0:
        local_training = runtime.begin(_device(context), server_round, message.content)
        if not runtime.keep_in_memory:
            runtime.save(local_training, context)
    else:
        local_training = runtime.restore(_device(context), server_round, context)
    released, targets = runtime.forward(local_training, step)
    payload = runtime.model.encode(released)
    content = RecordDict(
        {
            protocol.FEATURES: runtime.reply_record({**payload, protocol.TARGETS: targets}),
            protocol.METRICS: MetricRecord({protocol.BATCH_IMAGES: len(released)}),
        }
    )
    return Message(content, reply_to=message)


def _backward(runtime: EdgeRuntime, message: Message, context: Context) -> Message:
    server_round, step = _position(message)
    local_training = runtime.restore(_device(context), server_round, context)
    gradient = to_tensors(message.content.array_records[protocol.GRADIENTS])[protocol.Z]
    scale = float(config_number(message.content, protocol.LEARNING_RATE_SCALE))
    penalty = local_training.backward(step, gradient, scale)
    metrics = MetricRecord(
        {
            protocol.BATCH_IMAGES: len(gradient),
            protocol.NUM_EXAMPLES: local_training.num_images,
            protocol.PENALTY: penalty,
        }
    )
    content = RecordDict({protocol.METRICS: metrics})
    if step == int(config_number(message.content, protocol.STEPS)) - 1:
        content[protocol.ARRAYS] = runtime.reply_record(local_training.parameters)
        content[protocol.STATISTICS] = runtime.reply_record(local_training.statistics)
        moments = local_training.travelling_moments()
        if moments:
            content[protocol.MOMENTS] = runtime.reply_record(moments)
        runtime.local_trainings.pop(_device(context), None)  # the host keeps what it sends
    elif not runtime.keep_in_memory:
        runtime.save(local_training, context)
    return Message(content, reply_to=message)


def _infer(runtime: EdgeRuntime, message: Message, context: Context) -> Message:
    index = int(config_number(message.content, protocol.IMAGE))
    image = torch.from_numpy(runtime.data.image(index)[None].copy())
    if message.content.config_records[protocol.CONFIG].get(protocol.RAW, False):
        raw = RecordDict({protocol.RAW_IMAGE: runtime.reply_record({protocol.X: image})})
        return Message(raw, reply_to=message)
    version = str(context.state.config_records[protocol.CONFIG][protocol.VERSION])
    runner = runtime.runner(context.state, version)
    request = int(config_number(message.content, protocol.REQUEST))
    with torch.no_grad():
        released = runner.request_features(image, _device(context), request)
    payload = runtime.model.encode(released)
    content = RecordDict({protocol.FEATURES: runtime.reply_record(payload)})
    return Message(content, reply_to=message)
