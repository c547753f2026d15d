"""The service provider's training: both halves, end to end, before the deployment.

The setting of SiftFunnel (arXiv 2501.00824): one loss over both halves,

    L = task_weight * KL(targets || p) + penalty

with targets, penalty, task weight and release of the arm's defence, averaged over the tiers. Every
batch passes through every tier's front-end, and the cloud model gets the features of all of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from server.augmentation import augment
from server.edge_interface import ProviderTier
from server.entry_layers import TieredCloudModel
from server.joint_step import JointStep, Weights
from server.machine import settled, threads_of
from server.schedule import EpochRecord, best_epoch, is_over, learning_rate_scale
from testbed.core.layers import MIN_BATCH, BatchAverage
from testbed.core.seeds import generator, global_stream, torch_generator
from testbed.core.state_dicts import below, under
from testbed.core.threads import torch_threads
from testbed.scenario.training import ProviderSection

EVALUATION_BATCH = 256
REPORTS_PER_EPOCH = 10
AVERAGE_MOMENTUM = 0.1  # of batch averages without a published momentum


@dataclass(frozen=True)
class ProviderImages:
    """The provider's own images, uint8 (n, C, H, W), and their labels, int64 (n,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    validation_images: NDArray[np.uint8]
    validation_labels: NDArray[np.int64]


class ProviderTraining:
    """The training and its state; ``selected`` returns the trained weights.

    Parameters
    ----------
    section : its threads and precision are settled here, where they are left to the machine.
    tiers, cloud : the halves, trained in place.

    Attributes
    ----------
    history : the epochs so far.
    """

    def __init__(
        self,
        section: ProviderSection,
        seed: int,
        tiers: Sequence[ProviderTier],
        cloud: TieredCloudModel,
        data: ProviderImages,
        device: torch.device,
    ) -> None:
        self.section = settled(section, device)
        self.tiers, self.cloud, self.data = tiers, cloud, data
        self.history: list[EpochRecord] = []
        self._seed, self._device = seed, device
        for tier in tiers:
            tier.edge.to(device)
            tier.edge.front_end.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        cloud.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.joint = JointStep(self.section, tiers, cloud, device)
        self.averages = _averages([*(tier.edge.front_end for tier in tiers), cloud])
        self._best: Weights = {}

    @property
    def steps(self) -> int:
        """Return the number of training batches so far."""
        return len(self.history) * len(self.batches(np.arange(len(self.data.images))))

    def run(
        self,
        on_epoch: Callable[[EpochRecord], None] = lambda record: None,
        on_batch: Callable[[str], None] = lambda note: None,
    ) -> None:
        """Train until the end, and report every epoch and some batches."""
        with torch_threads(threads_of(self.section)):
            while not is_over(self.section, self.history):
                epoch = len(self.history) + 1
                dropout = torch_generator(self._seed, "provider dropout", epoch)
                with global_stream(dropout):
                    record = self._epoch(epoch, on_batch)
                self.history.append(record)
                if best_epoch(self.section, self.history) == record.epoch:
                    self._best = self.weights()
                on_epoch(record)

    def _epoch(self, epoch: int, on_batch: Callable[[str], None]) -> EpochRecord:
        self.joint.scale_learning_rates(learning_rate_scale(self.section, self.history))
        changes = torch_generator(self._seed, "provider augmentation", epoch)
        release = torch_generator(self._seed, "provider release", epoch)
        order = generator(self._seed, "provider batches", epoch).permutation(len(self.data.images))
        batches = self.batches(order)
        totals = torch.zeros(3, dtype=torch.float64, device=self._device)
        self.train_mode(True)
        first_step = self.steps
        for index, rows in enumerate(batches):
            if index % max(1, len(batches) // REPORTS_PER_EPOCH) == 0:
                on_batch(f"epoch {epoch}/{self.section.epochs}, batch {index}/{len(batches)}")
            self.weigh_batch(first_step + index)
            x = augment(self._unit(self.data.images[rows]), self.section.augmentation, changes)
            labels = torch.from_numpy(self.data.labels[rows])
            totals += self.joint.step(x, labels, release) * len(rows)
        loss, penalty, accuracy = (totals / sum(len(rows) for rows in batches)).tolist()
        return EpochRecord(epoch, loss, penalty, accuracy, *self.evaluate())

    def batches(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Split an order of the images into batches; a single last image is dropped."""
        size = self.section.batch_size
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        return [part for part in parts if len(part) >= MIN_BATCH]

    def weigh_batch(self, step: int) -> None:
        """Set the weight of this batch in batch-norm statistics.

        The published momenta, except that the first batches are averaged with equal weight.
        """
        for layer, momentum in self.averages:
            layer.momentum = max(momentum, 1.0 / (step + 1))

    def _unit(self, images: NDArray[np.uint8]) -> Tensor:
        pixels = torch.from_numpy(images).to(self._device, memory_format=torch.channels_last)
        return pixels.float().div_(255.0)

    def train_mode(self, training: bool) -> None:
        """Switch both halves between training and evaluation."""
        for tier in self.tiers:
            tier.edge.front_end.train(training)
        self.cloud.train(training)

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Return cross-entropy and accuracy on the validation images, averaged over tiers."""
        self.train_mode(False)
        totals = torch.zeros(2, dtype=torch.float64, device=self._device)
        shares = sum(tier.share for tier in self.tiers)
        for tier in self.tiers:
            rng = torch_generator(self._seed, "provider evaluation")
            for images, labels in self._validation():
                released = tier.edge.own_batch(images, labels, rng).released
                logits = self.cloud(released, tier.entry)
                correct = (logits.argmax(dim=1) == labels).double().sum()
                lost = functional.cross_entropy(logits, labels, reduction="sum").double()
                totals += torch.stack([lost, correct]) * (tier.share / shares)
        loss, accuracy = (totals / len(self.data.validation_labels)).tolist()
        return loss, accuracy

    def _validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.data.validation_labels), EVALUATION_BATCH):
            rows = slice(start, start + EVALUATION_BATCH)
            labels = torch.from_numpy(self.data.validation_labels[rows])
            yield self._unit(self.data.validation_images[rows]), labels.to(self._device)

    # State ---------------------------------------------------------------------------------------

    def _own_weights(self) -> Weights:
        """Return the weights themselves, not copies."""
        weights: Weights = {}
        for number, tier in enumerate(self.tiers):
            weights |= under(f"tier{number}.", tier.edge.own_weights())
        return weights | under("cloud.", self.cloud.state_dict())

    def weights(self) -> Weights:
        """Return copies of the current weights, named like ``selected``."""
        return {
            name: value.detach().cpu().contiguous().clone()
            for name, value in self._own_weights().items()
        }

    def selected(self) -> Weights:
        """Return the weights of the best epoch: ``tier0.<name>``, ..., ``cloud.<name>``."""
        return dict(self._best)

    @torch.no_grad()
    def load_weights(self, weights: Weights) -> None:
        """Load weights named like ``selected`` into both halves."""
        for name, value in self._own_weights().items():
            value.copy_(weights[name])

    def state(self) -> tuple[Weights, dict[str, Any]]:
        """Return tensors and JSON-compatible state, for ``load_state``."""
        moments, scaler = self.joint.state()
        tensors = under("now/", self.weights()) | under("best/", self._best)
        tensors |= under("optimiser/", moments)
        return tensors, {"history": [vars(record) for record in self.history], "scaler": scaler}

    def load_state(self, tensors: Weights, plain: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self.history = [EpochRecord(**record) for record in plain["history"]]
        self._best = below("best/", tensors)
        self.load_weights(below("now/", tensors))
        self.joint.load_state(below("optimiser/", tensors), plain["scaler"])


def _averages(modules: Sequence[nn.Module]) -> list[tuple[nn.BatchNorm2d | BatchAverage, float]]:
    """Return the layers that average over batches, with their initial momenta."""
    averages: list[tuple[nn.BatchNorm2d | BatchAverage, float]] = []
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                averages.append((layer, float(layer.momentum or AVERAGE_MOMENTUM)))
            elif isinstance(layer, BatchAverage):
                averages.append((layer, AVERAGE_MOMENTUM))
    return averages
