"""Workloads A and B as Flower apps: the same server loop and ClientApp for either Grid."""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from speed.workload import (
    CLOUD_SHAPES,
    EDGE_SHAPES,
    SHAPES,
    Pool,
    Weights,
    features,
    finish,
    initial_weights,
    local_sgd,
    to_input,
)
from testbed.wire.arrays import as_numpy
from testbed.wire.records import to_lent_record, to_record, to_tensors

FINISHED_AT_ONCE = 5  # devices per forward pass of the server, as in the limit
SERVER_THREADS = 2  # the devices' processes wait for it


@cache
def _pool() -> Pool:
    return Pool.make()


def client_app(data: Any = None) -> ClientApp:
    """Build the ClientApp.

    Parameters
    ----------
    data : the devices' images (``training(device)``), given on a host of the testbed, where arrays
        need not be copied into messages; by default the pool of this process.
    """
    reply_record = to_record if data is None else to_lent_record
    app = ClientApp()
    decoded: dict[str, tuple[object, Weights]] = {}

    def weights_of(message: Message) -> Weights:
        """Decode weights once per process and record."""
        record = message.content["arrays"]
        assert isinstance(record, ArrayRecord)
        if "arrays" not in decoded or decoded["arrays"][0] is not record:
            decoded["arrays"] = (record, to_tensors(record))
        return decoded["arrays"][1]

    def images_of(context: Context) -> Any:
        return (data or _pool()).training(int(context.node_config["partition-id"]))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        images, labels = images_of(context)
        trained = local_sgd(weights_of(message), images, labels)
        metrics = MetricRecord({"num-examples": len(images)})
        content = RecordDict({"arrays": reply_record(trained), "metrics": metrics})
        return Message(content, reply_to=message)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        images, _ = images_of(context)
        with torch.no_grad():
            z = features(weights_of(message), to_input(images))
        return Message(RecordDict({"features": reply_record({"z": z})}), reply_to=message)

    return app


def wait_for(grid: Grid, devices: int) -> None:
    """Wait until every node has registered."""
    while len(list(grid.get_node_ids())) < devices:
        time.sleep(0.1)


Merge = Callable[[list[Message]], list[Message]]


def train_rounds(
    grid: Grid, devices: int, rounds: int, merge: Merge = lambda replies: replies
) -> list[float]:
    """Run workload A with Flower's FedAvg; return the seconds of each round.

    Parameters
    ----------
    merge : turns the devices' replies into those that the strategy averages.
    """
    wait_for(grid, devices)
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=devices)
    arrays = to_record(initial_weights(SHAPES))
    seconds = []
    for server_round in range(1, rounds + 1):
        began = time.perf_counter()
        messages = strategy.configure_train(server_round, arrays, ConfigRecord(), grid)
        replies = list(grid.send_and_receive(messages))
        assert len(replies) == devices
        assert not any(reply.has_error() for reply in replies)
        averaged, _ = strategy.aggregate_train(server_round, merge(replies))
        assert averaged is not None
        arrays = averaged
        seconds.append(time.perf_counter() - began)
    return seconds


@torch.no_grad()
def serve_rounds(grid: Grid, devices: int, rounds: int) -> list[float]:
    """Run workload B; return the seconds of each round."""
    wait_for(grid, devices)
    torch.set_num_threads(SERVER_THREADS)
    cloud = initial_weights(CLOUD_SHAPES)
    content = RecordDict({"arrays": to_record(initial_weights(EDGE_SHAPES))})
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        nodes = list(grid.get_node_ids())
        replies = list(grid.send_and_receive([Message(content, node, "query") for node in nodes]))
        assert len(replies) == devices
        z = [as_numpy(reply.content.array_records["features"]["z"]) for reply in replies]
        for start in range(0, len(z), FINISHED_AT_ONCE):
            part = torch.from_numpy(np.concatenate(z[start : start + FINISHED_AT_ONCE]))
            finish(cloud, part.contiguous(memory_format=torch.channels_last)).argmax(dim=1)
        seconds.append(time.perf_counter() - began)
    return seconds


ROUNDS = {"A": train_rounds, "B": serve_rounds}
