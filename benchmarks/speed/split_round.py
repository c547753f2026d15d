"""Workload C: rounds of split-federated training with SiftFunnel on devices of 20 images.

The engine runs its ServerApp over FleetGrid, with two threads for the cloud, whose step the hosts
wait for. The limit is ``tight_split``.
"""

import itertools
import time

from flwr.serverapp import Grid

from clients.device_spec import DeviceSpec, EdgeModel, initialise
from server.aggregation import Tier
from server.cloud import Cloud
from server.entry_layers import TieredCloudModel
from server.split_federated import RoundRecord, SplitFederated
from speed.workload import BATCH_SIZE, CLASSES, LEARNING_RATE
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


def server_of(devices: int, rounds: int, threads: int) -> SplitFederated:
    """Return the ServerApp's training loop before its first round."""
    training = TrainingSection(
        rounds=rounds, cohort_size=devices, local_steps=LOCAL_STEPS, batch_size=BATCH_SIZE
    )
    edge = device_spec().build()
    tier = Tier(STRATEGIES.create("fedavg", {}), *edge.initial_weights(), edge.initial_moments())
    return SplitFederated(training, 0, cloud_of(edge, threads), [tier])


def train_rounds(grid: Grid, devices: int, rounds: int) -> list[float]:
    """Run the ServerApp over a Grid; return the seconds of each round."""
    server = server_of(devices, rounds, threads=2)
    ends = [time.perf_counter()]

    def on_round(record: RoundRecord) -> None:
        assert record.participants == devices
        ends.append(time.perf_counter())

    server.train(grid, on_round)
    return [end - start for start, end in itertools.pairwise(ends)]
