"""The upper bound: the same arithmetic in two torch processes, without messages or a Grid."""

import multiprocessing
import time
from multiprocessing.connection import Connection

import numpy as np
import torch

from speed.halves import Halves
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
from testbed.core.process import tune_malloc

DEVICES_PER_CHUNK = 5  # of a forward pass: a batch that fits the cache


def _train(weights: Weights, pool: Pool, devices: range) -> Weights:
    total = {name: torch.zeros_like(value) for name, value in weights.items()}
    for device in devices:
        trained = local_sgd(weights, *pool.training(device))
        torch._foreach_add_(list(total.values()), list(trained.values()))
    return total


@torch.no_grad()
def _serve(edge: Weights, cloud: Weights, pool: Pool, devices: range) -> Weights:
    found = []
    for start in range(0, len(devices), DEVICES_PER_CHUNK):
        chunk = devices[start : start + DEVICES_PER_CHUNK]
        x = to_input(np.concatenate([pool.training(device)[0] for device in chunk]))
        found.append(finish(cloud, features(edge, x)).argmax(dim=1))
    return {"classes": torch.cat(found)}


def _work(connection: Connection, devices: range, workload: str) -> None:
    torch.set_num_threads(1)
    tune_malloc()
    pool = Pool.make()
    edge, cloud = initial_weights(EDGE_SHAPES), initial_weights(CLOUD_SHAPES)
    while (sent := connection.recv()) is not None:
        if workload == "A":
            weights = {name: torch.from_numpy(value) for name, value in sent.items()}
            result = _train(weights, pool, devices)
        else:
            result = _serve(edge, cloud, pool, devices)
        connection.send({name: value.numpy() for name, value in result.items()})


def run(workload: str, devices: int, rounds: int) -> list[float]:
    """Return the seconds of each round."""
    if workload == "C":
        from speed import tight_split

        return tight_split.run(devices, rounds)
    torch.set_num_threads(1)
    context = multiprocessing.get_context("spawn")
    weights = {name: value.numpy() for name, value in initial_weights(SHAPES).items()}
    halves = Halves(context, _work, devices, workload)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        halves.send(weights)
        sums = halves.receive()
        if workload == "A":
            weights = {name: sum(part[name] for part in sums) / devices for name in weights}
        seconds.append(time.perf_counter() - began)
    halves.end()
    return seconds
