"""Workload C: rounds of split-federated training with SiftFunnel on devices of 20 images.

The engine runs its ServerApp over FleetGrid, with two threads for the cloud, whose step the hosts
wait for. The limit calls the same sessions and the same cloud step directly, in two processes with
half of the devices each: no messages, and no exchange between the halves but the averaged
front-end.
"""

import itertools
import time
from collections.abc import Mapping

import torch
from flwr.serverapp import Grid
from torch import Tensor

from clients.device_spec import DeviceSpec, EdgeModel, initialise
from clients.local_training import LocalTraining
from server.aggregation import Tier
from server.cloud import Cloud
from server.entry_layers import TieredCloudModel
from server.split_federated import RoundRecord, SplitFederated
from speed.workload import BATCH_SIZE, CLASSES, LEARNING_RATE, Pool
from testbed.core.registries import CLOUD_MODELS, STRATEGIES
from testbed.core.seeds import torch_generator
from testbed.scenario.components import Component
from testbed.scenario.training import CloudOptimiserSection, EdgeOptimiserSection, TrainingSection

LOCAL_STEPS = 2  # one epoch of 20 images


def device_spec() -> DeviceSpec:
    """Return the specification of the device program."""
    return DeviceSpec(
        arm="siftfunnel",
        seed=0,
        front_end=Component(name="siftfunnel_cnn", options={}),
        defence=Component(name="siftfunnel", options={}),
        image_shape=(3, 32, 32),
        num_classes=CLASSES,
        channel_mean=(0.5, 0.5, 0.5),
        channel_std=(0.25, 0.25, 0.25),
        batch_size=BATCH_SIZE,
        optimiser=EdgeOptimiserSection(learning_rate=LEARNING_RATE),
    )


def cloud_of(edge: EdgeModel, threads: int) -> Cloud:
    """Return the cloud half with its initial weights."""
    name, options = edge.front_end.cloud_model
    shape = edge.front_end.feature_shape
    trunk = CLOUD_MODELS.create(name, options, feature_shape=shape, num_classes=CLASSES)
    model = TieredCloudModel(trunk, [shape], CLASSES)
    initialise(model, torch_generator(0, "cloud weights"))
    return Cloud(model, CloudOptimiserSection(), 0, threads)


def train_rounds(grid: Grid, devices: int, rounds: int) -> list[float]:
    """Run the ServerApp over a Grid; return the seconds of each round."""
    training = TrainingSection(
        rounds=rounds, cohort_size=devices, local_steps=LOCAL_STEPS, batch_size=BATCH_SIZE
    )
    edge = device_spec().build()
    tier = Tier(STRATEGIES.create("fedavg", {}), *edge.initial_weights(), edge.initial_moments())
    server = SplitFederated(training, 0, cloud_of(edge, threads=2), [tier])
    ends = [time.perf_counter()]

    def on_round(record: RoundRecord) -> None:
        assert record.participants == devices
        ends.append(time.perf_counter())

    server.train(grid, on_round)
    return [end - start for start, end in itertools.pairwise(ends)]


class TightHalf:
    """One process's share of the devices, without a wire."""

    def __init__(self, pool: Pool, devices: range) -> None:
        self._edge = device_spec().build()
        self._cloud = cloud_of(self._edge, threads=1)
        self._pool = pool
        self._devices = devices

    def initial_weights(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return parameters and statistics before the first round."""
        return self._edge.initial_weights()

    def round(
        self, server_round: int, parameters: Mapping[str, Tensor], statistics: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Train every device for a round; return the sum of their parameters."""
        local_trainings = [
            LocalTraining(
                self._edge,
                device,
                server_round,
                *self._pool.training(device),
                parameters,
                statistics,
            )
            for device in self._devices
        ]
        for step in range(LOCAL_STEPS):
            sent = [local_training.forward(step) for local_training in local_trainings]
            done = self._cloud.step(
                [z for z, _ in sent], [targets for _, targets in sent], server_round, step
            )
            for local_training, gradient in zip(local_trainings, done.gradients, strict=True):
                local_training.backward(step, gradient)
        total = {name: torch.zeros_like(value) for name, value in parameters.items()}
        for local_training in local_trainings:
            for name, value in local_training.parameters.items():
                total[name] += value.detach()
        return total
