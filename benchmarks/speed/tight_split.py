"""The limit of workload C: split-federated rounds of SiftFunnel in bare torch modules.

Two processes hold half of the devices each, every device as a module with weights of its own: no
sessions, weights passed by name, messages, records or ledger. Features and gradients lie in memory
that the processes share. The parent takes one step of the cloud model on the whole cohort's
features, in two threads, while the devices wait for it. Weights after a round equal the engine's
except for rounding.

The devices of a first step have equal weights, but each passes by itself: its gradients are wanted
apart, and batch norm averages over its images alone. A batch over five devices would take 0.7 to
0.9 of the time, forward and backward, but with gradients and averages in common.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from clients.defences.base import Batch, Defence
from clients.device_spec import DeviceSpec, initialise
from clients.front_ends.base import FrontEnd
from speed.halves import Halves
from speed.split_round import LOCAL_STEPS, device_spec
from speed.workload import BATCH_SIZE, CLASSES, Pool
from testbed.core.layers import running_weight, set_statistics_momentum
from testbed.core.process import tune_malloc
from testbed.core.registries import CLOUD_MODELS, DEFENCES, FRONT_ENDS
from testbed.core.seeds import generator, global_stream, torch_generator
from testbed.scenario.training import CloudOptimiserSection

KEPT_GRAPHS = 64
"""Devices of a process whose activations stay in memory (0.7 GB) until the gradients arrive."""
CLOUD_THREADS = 2
Weights = dict[str, Tensor]


def front_end_of(spec: DeviceSpec) -> FrontEnd:
    """Return the front-end with its first weights, in the layout that convolutions run fastest."""
    front_end = FRONT_ENDS.create(
        spec.front_end.name, spec.front_end.options, image_shape=spec.image_shape
    )
    initialise(front_end, torch_generator(spec.seed, "front-end weights"))
    moved: FrontEnd = front_end.to(memory_format=torch.channels_last)
    return moved.train()


def weights_of(module: nn.Module) -> Weights:
    """Return the parameters by name, detached."""
    return {name: value.detach() for name, value in module.named_parameters()}


class Device:
    """One device: its module, its images, and SGD with momentum and clipped gradients."""

    def __init__(self, number: int, front_end: FrontEnd, spec: DeviceSpec, pool: Pool) -> None:
        self._number = number
        self._spec = spec
        self._front_end = copy.deepcopy(front_end)
        self._leaves = list(self._front_end.parameters())
        images, labels = pool.training(number)
        self._images, self._labels = torch.from_numpy(images), torch.from_numpy(labels)
        shape = (1, len(spec.channel_mean), 1, 1)
        self._mean = torch.tensor(spec.channel_mean).view(shape)
        self._std = torch.tensor(spec.channel_std).view(shape)
        self._velocities: list[Tensor] = []
        self._kept: tuple[Tensor, Tensor] | None = None

    def start(self, weights: Weights) -> None:
        """Load the weights of a round."""
        with torch.no_grad():
            torch._foreach_copy_(self._leaves, list(weights.values()))
        self._velocities = []

    def _batch(self, server_round: int, step: int) -> tuple[Tensor, Tensor]:
        batches = len(self._images) // BATCH_SIZE
        stream = generator(self._spec.seed, "batches", self._number, server_round, step // batches)
        order = stream.permutation(len(self._images))
        start = step % batches * BATCH_SIZE
        chosen = torch.from_numpy(order[start : start + BATCH_SIZE])
        return self._images[chosen].float().div_(255.0), self._labels[chosen]

    def _run(self, x: Tensor) -> Tensor:
        normalised = ((x - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        z: Tensor = self._front_end(normalised)
        return z

    def forward(
        self, server_round: int, step: int, defence: Defence, keep: bool
    ) -> tuple[Tensor, Tensor]:
        """Return features and targets of a step."""
        x, labels = self._batch(server_round, step)
        with torch.set_grad_enabled(keep):
            set_statistics_momentum(self._front_end, 1.0 / (step + 1) if keep else 0.0)
            z = self._run(x)
        self._kept = (x, z) if keep else None
        return z.detach(), defence.targets(labels, CLASSES)

    def backward(self, server_round: int, step: int, defence: Defence, gradient: Tensor) -> None:
        """Update the weights; a forward pass that was not kept is repeated."""
        if self._kept is None:
            self.forward(server_round, step, defence, keep=True)
        assert self._kept is not None
        (x, z), self._kept = self._kept, None
        penalty = defence.penalty(Batch(x, self._labels, z, z))
        assert penalty is not None
        seeds = [gradient * defence.task_weight, torch.ones_like(penalty)]
        gradients = list(torch.autograd.grad([z, penalty], self._leaves, seeds))
        options = self._spec.optimiser
        with torch.no_grad():
            assert options.clip_norm is not None
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            torch._foreach_mul_(gradients, (options.clip_norm / (norm + 1e-6)).clamp_max(1.0))
            if self._velocities:
                torch._foreach_mul_(self._velocities, options.momentum)
                torch._foreach_add_(self._velocities, gradients)
            else:
                self._velocities = gradients
            torch._foreach_add_(self._leaves, self._velocities, alpha=-options.learning_rate)

    def add_to(self, total: list[Tensor]) -> None:
        """Add the weights to a sum."""
        with torch.no_grad():
            torch._foreach_add_(total, self._leaves)


class CloudHalf:
    """The cloud model and Adam, on one batch of the whole cohort."""

    def __init__(self, front_end: FrontEnd, seed: int) -> None:
        name, options = front_end.cloud_model
        shape = front_end.feature_shape
        self.model: nn.Module = CLOUD_MODELS.create(
            name, options, feature_shape=shape, num_classes=CLASSES
        )
        initialise(self.model, torch_generator(seed, "cloud weights"))
        self.model = self.model.to(memory_format=torch.channels_last).train()
        section = CloudOptimiserSection()
        self._optimiser = torch.optim.Adam(
            self.model.parameters(),
            lr=section.learning_rate,
            betas=(section.betas[0], section.betas[1]),
            fused=True,
        )
        self._seed = seed
        self._steps = 0

    def step(self, z: Tensor, targets: Tensor, server_round: int, step: int) -> Tensor:
        """Return the gradients of each device's mean loss; features are (devices, n, C, H, W)."""
        set_statistics_momentum(self.model, running_weight(self._steps))
        self._steps += 1
        entered = z.flatten(0, 1).contiguous(memory_format=torch.channels_last).requires_grad_()
        with global_stream(torch_generator(self._seed, "cloud dropout", server_round, step)):
            scores = functional.log_softmax(self.model(entered), dim=1)
        loss = functional.kl_div(scores, targets.flatten(0, 1), reduction="batchmean")
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        assert entered.grad is not None
        return (entered.grad * len(z)).view(z.shape)


class Share:
    """One process's share of the devices; ``z``, ``targets`` and ``gradients`` are the cohort's."""

    def __init__(self, pool: Pool, devices: range, exchange: Mapping[str, Tensor]) -> None:
        spec = device_spec()
        self._defence = DEFENCES.create(spec.defence.name, spec.defence.options)
        front_end = front_end_of(spec)
        self._devices = {number: Device(number, front_end, spec, pool) for number in devices}
        self._exchange = exchange

    def start(self, weights: Weights) -> None:
        """Begin a round."""
        for device in self._devices.values():
            device.start(weights)

    def forward(self, server_round: int, step: int) -> None:
        """Write features and targets of a step."""
        for place, (number, device) in enumerate(self._devices.items()):
            keep = place < KEPT_GRAPHS
            z, targets = device.forward(server_round, step, self._defence, keep)
            self._exchange["z"][number], self._exchange["targets"][number] = z, targets

    def backward(self, server_round: int, step: int) -> None:
        """Read the gradients of a step."""
        for number, device in self._devices.items():
            gradient = self._exchange["gradients"][number]
            device.backward(server_round, step, self._defence, gradient)

    def total(self, weights: Weights) -> Weights:
        """Return the sum of the devices' weights after a round that began with ``weights``."""
        total = {name: torch.zeros_like(value) for name, value in weights.items()}
        for device in self._devices.values():
            device.add_to(list(total.values()))
        return total


def shared_exchange(devices: int, shape: Sequence[int]) -> Weights:
    """Return the memory for one step of a cohort, which processes share."""
    rows = (devices, BATCH_SIZE)
    exchange = {
        "z": torch.zeros(*rows, *shape),
        "targets": torch.zeros(*rows, CLASSES),
        "gradients": torch.zeros(*rows, *shape),
    }
    return {name: value.share_memory_() for name, value in exchange.items()}


def _work(connection: Connection, devices: range, exchange: dict[str, Tensor]) -> None:
    torch.set_num_threads(1)
    tune_malloc()
    share = Share(Pool.make(), devices, exchange)
    server_round = 0
    while (sent := connection.recv()) is not None:
        server_round += 1
        weights = {name: torch.from_numpy(value) for name, value in sent.items()}
        share.start(weights)
        for step in range(LOCAL_STEPS):
            share.forward(server_round, step)
            connection.send(None)
            connection.recv()
            share.backward(server_round, step)
        connection.send({name: value.numpy() for name, value in share.total(weights).items()})


def run(devices: int, rounds: int) -> list[float]:
    """Return the seconds of each round."""
    return rounds_of(devices, rounds, CLOUD_THREADS)[0]


def rounds_of(devices: int, rounds: int, cloud_threads: int) -> tuple[list[float], Weights]:
    """Return the seconds of each round, and the averaged weights after the last."""
    torch.set_num_threads(cloud_threads)
    front_end = front_end_of(device_spec())
    cloud = CloudHalf(front_end, device_spec().seed)
    exchange = shared_exchange(devices, front_end.feature_shape)
    context = torch.multiprocessing.get_context("spawn")
    halves = Halves(context, _work, devices, exchange)
    weights = {name: value.numpy() for name, value in weights_of(front_end).items()}
    seconds = []
    for server_round in range(1, rounds + 1):
        began = time.perf_counter()
        halves.send(weights)
        for step in range(LOCAL_STEPS):
            halves.receive()
            exchange["gradients"].copy_(
                cloud.step(exchange["z"], exchange["targets"], server_round, step)
            )
            halves.send(True)
        sums = halves.receive()
        weights = {name: np.sum([part[name] for part in sums], axis=0) for name in weights}
        weights = {name: value / np.float32(devices) for name, value in weights.items()}
        seconds.append(time.perf_counter() - began)
    halves.end()
    return seconds, {name: torch.from_numpy(value) for name, value in weights.items()}
