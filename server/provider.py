"""The service provider's training: both halves, end to end, before anything is deployed.

The setting of SiftFunnel (arXiv 2501.00824): one loss over both halves,

    L = task_weight * KL(targets || p) + penalty(x, z)

with targets, penalty, task weight and release of the arm's defence, averaged over the tiers: every
batch goes through every tier's front-end, and the one cloud model sees all of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from server.augmentation import augment
from server.cloud import torch_threads
from server.compute import DTYPES, repeatable
from server.schedule import EpochRecord, best_epoch, is_over, learning_rate_scale
from testbed.core.provider_section import ProviderOptimiserSection, ProviderSection
from testbed.core.seeds import generator, torch_generator

MIN_BATCH = 2  # batch norm needs two
EVALUATION_BATCH = 256
REPORTS_PER_EPOCH = 10
Weights = dict[str, Tensor]


class DefenceTerms(Protocol):
    """What the loss takes from a defence (clients.defences.base says what each means)."""

    task_weight: float

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the label distribution (N, K)."""

    def penalty(self, x: Tensor, z: Tensor, pre_funnel: Tensor | None) -> Tensor | None:
        """Return the defence's own loss terms, or None."""


class EdgeHalf(Protocol):
    """A front-end with its defence, as a device would run it."""

    @property
    def front_end(self) -> nn.Module:
        """Return the module whose weights are trained."""

    @property
    def defence(self) -> DefenceTerms:
        """Return the defence."""

    def own_features(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return features before release, as released, and the pre-funnel output if any."""

    def to(self, device: torch.device) -> None:
        """Move the weights."""


@dataclass(frozen=True)
class Tier:
    """One front-end, and where its features enter the cloud model."""

    edge: EdgeHalf
    entry: int = 0


@dataclass(frozen=True)
class ProviderImages:
    """The provider's own images, uint8 (n, C, H, W), and their labels, int64 (n,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    validation_images: NDArray[np.uint8]
    validation_labels: NDArray[np.int64]
    num_classes: int


def _single_entry(cloud: nn.Module, z: Tensor, entry: int) -> Tensor:
    logits: Tensor = cloud(z)
    return logits


class ProviderTraining:
    """The training and its state; weights leave through ``selected``.

    Parameters
    ----------
    tiers, cloud : the halves, trained in place.
    threads : torch threads; they decide the order of sums, hence the bits.
    enter : (cloud, features, entry) -> logits.

    Attributes
    ----------
    history : the epochs so far.
    """

    def __init__(
        self,
        section: ProviderSection,
        seed: int,
        tiers: Sequence[Tier],
        cloud: nn.Module,
        data: ProviderImages,
        device: torch.device,
        threads: int,
        enter: Callable[[nn.Module, Tensor, int], Tensor] = _single_entry,
    ) -> None:
        self.section, self.tiers, self.data = section, tiers, data
        self.cloud = cloud
        self.history: list[EpochRecord] = []
        self._seed, self._device, self._threads, self._enter = seed, device, threads, enter
        for tier in tiers:
            tier.edge.to(device)
            tier.edge.front_end.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        cloud.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        modules = [*(tier.edge.front_end for tier in tiers), cloud]
        self._parameters = [value for module in modules for value in module.parameters()]
        self.optimiser = _optimiser(section.optimiser, self._parameters)
        self._scaler = torch.amp.GradScaler(device.type, enabled=section.precision == "fp16")
        # The published momenta of batch norm; the first batches are averaged instead of forgotten.
        self._norms = [
            (layer, float(layer.momentum or 0.0))
            for module in modules
            for layer in module.modules()
            if isinstance(layer, nn.BatchNorm2d)
        ]
        self._best: Weights = {}

    @property
    def steps(self) -> int:
        """Return how many batches have been trained on."""
        return len(self.history) * len(self._batches(np.arange(len(self.data.images))))

    def run(
        self,
        on_epoch: Callable[[EpochRecord], None] = lambda record: None,
        on_batch: Callable[[str], None] = lambda note: None,
    ) -> None:
        """Train until it is over, reporting every epoch, and now and then within one."""
        devices = [self._device] if self._device.type == "cuda" else []
        with torch_threads(self._threads), repeatable(self._device):
            while not is_over(self.section, self.history):
                with torch.random.fork_rng(devices=devices):
                    record = self._epoch(len(self.history) + 1, on_batch)
                self.history.append(record)
                if best_epoch(self.section, self.history) == record.epoch:
                    self._best = self.weights()
                on_epoch(record)

    def _epoch(self, epoch: int, on_batch: Callable[[str], None]) -> EpochRecord:
        scale = learning_rate_scale(self.section, self.history)
        for group in self.optimiser.param_groups:
            group["lr"] = self.section.optimiser.learning_rate * scale
        torch.manual_seed(int(generator(self._seed, "provider dropout", epoch).integers(2**63)))
        changes = torch_generator(self._seed, "provider augmentation", epoch)
        release = torch_generator(self._seed, "provider release", epoch)
        order = generator(self._seed, "provider batches", epoch).permutation(len(self.data.images))
        batches = self._batches(order)
        totals = torch.zeros(3, dtype=torch.float64, device=self._device)
        self._train_mode(True)
        first_step = self.steps
        for index, rows in enumerate(batches):
            if index % max(1, len(batches) // REPORTS_PER_EPOCH) == 0:
                on_batch(f"epoch {epoch}/{self.section.epochs}, batch {index}/{len(batches)}")
            self._blend_statistics(first_step + index)
            x = self._unit(self.data.images[rows])
            x = augment(x, self.section.augmentation, changes)
            totals += self.step(x, torch.from_numpy(self.data.labels[rows]), release) * len(rows)
        loss, penalty, accuracy = (totals / sum(len(rows) for rows in batches)).tolist()
        return EpochRecord(epoch, loss, penalty, accuracy, *self.evaluate())

    def _batches(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        size = self.section.batch_size
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        return [part for part in parts if len(part) >= MIN_BATCH]

    def _blend_statistics(self, step: int) -> None:
        for layer, momentum in self._norms:
            layer.momentum = max(momentum, 1.0 / (step + 1))

    def _unit(self, images: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(images).to(self._device).float().div_(255.0)

    def _train_mode(self, training: bool) -> None:
        for tier in self.tiers:
            tier.edge.front_end.train(training)
        self.cloud.train(training)

    def step(self, x: Tensor, labels: Tensor, release: torch.Generator) -> Tensor:
        """Take one step on images in [0, 1] (N, C, H, W); return loss, penalty and accuracy (3,).

        Parameters
        ----------
        labels : int64 (N,), on the CPU.
        release : the defence's random draws.
        """
        self.optimiser.zero_grad(set_to_none=True)
        share = 1.0 / len(self.tiers)
        figures = torch.zeros(3, dtype=torch.float64, device=self._device)
        for tier in self.tiers:
            loss, parts = self._loss(tier, x, labels, release)
            # Tier by tier, so that one tier's activations are in memory at a time.
            self._scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]
            figures += parts * share
        if self.section.optimiser.clip_norm is not None:
            self._scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self._parameters, self.section.optimiser.clip_norm)
        self._scaler.step(self.optimiser)
        self._scaler.update()
        return figures

    def _loss(
        self, tier: Tier, x: Tensor, labels: Tensor, release: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        defence = tier.edge.defence
        targets = defence.targets(labels, self.data.num_classes).to(self._device)
        with self._autocast():
            z, released, pre_funnel = tier.edge.own_features(x, release)
            logits = self._enter(self.cloud, released, tier.entry).float()
        task = functional.kl_div(
            functional.log_softmax(logits, dim=1), targets, reduction="batchmean"
        )
        # Distances and correlations need the range and the digits of single precision.
        penalty = defence.penalty(x, z.float(), None if pre_funnel is None else pre_funnel.float())
        loss = defence.task_weight * task
        if penalty is not None:
            loss = loss + penalty
        correct = (logits.argmax(dim=1) == targets.argmax(dim=1)).double().mean()
        value = torch.zeros_like(correct) if penalty is None else penalty.detach().double()
        return loss, torch.stack([task.detach().double(), value, correct])

    def _autocast(self) -> torch.autocast:
        precision = self.section.precision
        dtype = DTYPES[precision] if precision != "fp32" else torch.bfloat16
        return torch.autocast(self._device.type, dtype=dtype, enabled=precision != "fp32")

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Return cross-entropy and accuracy on the validation images, averaged over tiers."""
        self._train_mode(False)
        totals = torch.zeros(2, dtype=torch.float64, device=self._device)
        for tier in self.tiers:
            rng = torch_generator(self._seed, "provider evaluation")
            for images, labels in self._validation():
                released = tier.edge.own_features(images, rng)[1]
                logits = self._enter(self.cloud, released, tier.entry)
                correct = (logits.argmax(dim=1) == labels).double().sum()
                lost = functional.cross_entropy(logits, labels, reduction="sum").double()
                totals += torch.stack([lost, correct])
        loss, accuracy = (totals / (len(self.tiers) * len(self.data.validation_labels))).tolist()
        return loss, accuracy

    def _validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.data.validation_labels), EVALUATION_BATCH):
            rows = slice(start, start + EVALUATION_BATCH)
            labels = torch.from_numpy(self.data.validation_labels[rows])
            yield self._unit(self.data.validation_images[rows]), labels.to(self._device)

    # State ---------------------------------------------------------------------------------------

    def _modules(self) -> dict[str, nn.Module]:
        edges = {f"tier{i}": tier.edge.front_end for i, tier in enumerate(self.tiers)}
        return edges | {"cloud": self.cloud}

    def weights(self) -> Weights:
        """Return copies of the weights as they are now, named like ``selected``."""
        return {
            f"{prefix}.{name}": value.detach().cpu().contiguous().clone()
            for prefix, module in self._modules().items()
            for name, value in module.state_dict().items()
        }

    def selected(self) -> Weights:
        """Return the weights of the best epoch: ``tier0.<name>``, ..., ``cloud.<name>``."""
        return dict(self._best)

    def state(self) -> tuple[Weights, dict[str, Any]]:
        """Return tensors and JSON-able state from which another object continues alike."""
        tensors = {f"now/{name}": value for name, value in self.weights().items()}
        tensors |= {f"best/{name}": value for name, value in self._best.items()}
        for index, entry in self.optimiser.state_dict()["state"].items():
            tensors |= {
                f"optimiser/{index}/{name}": value.detach().cpu().clone()
                for name, value in entry.items()
                if value is not None
            }
        plain = {"history": [vars(record) for record in self.history]}
        return tensors, plain | {"scaler": self._scaler.state_dict()}

    def load_state(self, tensors: Weights, plain: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self.history = [EpochRecord(**record) for record in plain["history"]]
        self._best = _below(tensors, "best/")
        now = _below(tensors, "now/")
        for prefix, module in self._modules().items():
            module.load_state_dict(_below(now, f"{prefix}."))
        moments: dict[int, Weights] = {}
        for key, value in _below(tensors, "optimiser/").items():
            index, name = key.split("/")
            leaf = self._parameters[int(index)]
            if value.shape == leaf.shape:
                # Fused optimisers walk through memory: moments need the weights' own layout.
                value = torch.empty_like(leaf, requires_grad=False).copy_(value)
            moments.setdefault(int(index), {})[name] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self._scaler.load_state_dict(plain["scaler"])


def _below(tensors: Weights, prefix: str) -> Weights:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _optimiser(
    section: ProviderOptimiserSection, parameters: list[nn.Parameter]
) -> torch.optim.Optimizer:
    shared: dict[str, Any] = {
        "lr": section.learning_rate,
        "weight_decay": section.weight_decay,
        "fused": True,
    }
    if section.method == "sgd":
        return torch.optim.SGD(parameters, momentum=section.momentum, **shared)
    kind = torch.optim.Adam if section.method == "adam" else torch.optim.AdamW
    betas = (section.betas[0], section.betas[1])
    return kind(parameters, betas=betas, amsgrad=section.amsgrad, **shared)
