"""pfl-research (arXiv 2404.06430), workload A: two processes under torchrun, its own FedAvg.

Runs in an environment of its own, without the testbed: it imports torch, numpy and pfl alone.
"""

import time

import numpy as np
import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.internal.ops.selector import get_framework_module, set_framework_module
from pfl.model.pytorch import PyTorchModel

from speed.workload import (
    BATCH_SIZE,
    LEARNING_RATE,
    SHAPES,
    Pool,
    initial_weights,
    logits,
    to_input,
)


class Network(torch.nn.Module):
    """Workload A in pfl's interface."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterDict(
            {name.replace(".", "_"): value for name, value in initial_weights(SHAPES).items()}
        )

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy."""
        weights = {name: self.weights[name.replace(".", "_")] for name in SHAPES}
        return F.cross_entropy(logits(weights, x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, object]:
        """Return no metrics: nothing is evaluated."""
        return {}


class Stopwatch(TrainingProcessCallback):
    """Records the end of each central iteration."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_central_iteration(self, *_: object, **__: object) -> tuple[bool, dict[str, object]]:
        """Record the time; never stop."""
        from pfl.metrics import Metrics

        self.ends.append(time.perf_counter())
        return False, Metrics()


def run(workload: str, devices: int, rounds: int) -> list[float]:
    """Return the seconds of each round."""
    if workload != "A":
        raise ValueError("pfl-research trains models on devices; it has no features to send")
    torch.set_num_threads(1)
    from pfl.internal.ops import pytorch_ops

    set_framework_module(pytorch_ops)
    pool = Pool.make()

    def dataset(device: int) -> Dataset:
        images, labels = pool.training(device)
        return Dataset(raw_data=(to_input(images), torch.from_numpy(labels)))

    order = iter(lambda: int(next(users)), None)
    users = (index % devices for index in range(10**9))
    data = FederatedDataset(dataset, lambda: next(order))
    network = Network()
    model = PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0))
    watch = Stopwatch()
    began = time.perf_counter()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=10**9,
            train_cohort_size=devices,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=data, val_data=data),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=LEARNING_RATE, local_batch_size=BATCH_SIZE
        ),
        callbacks=[watch],
    )
    seconds = np.diff([began, *watch.ends]).tolist()
    return seconds if get_framework_module().distributed.global_rank == 0 else []
