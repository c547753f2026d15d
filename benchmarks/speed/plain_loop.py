"""Workload D as a plain torch loop, written for these two networks.

Weights, layers, loss, optimiser, augmentation, memory layout, precision and threads are those of
the testbed's training, and it evaluates after every epoch, too. The model is a sequence of layers
and the loss is written out; there are no tiers, defences, schedules, records or seeded streams.
"""

import itertools
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

from clients.defences.nopeek import distance_correlation_squared
from clients.defences.siftfunnel import channel_redundancy
from server.augmentation import augment
from server.provider import EVALUATION_BATCH
from speed.central_training import MEAN, STD, halves, random_images, section
from speed.workload import CLASSES
from testbed.core.layers import (
    Cbam,
    SqueezeExcitation,
    TripletAttention,
    conv_block,
    funnel_tail,
    widen,
)
from testbed.core.process import tune_malloc
from testbed.core.threads import available_cores, torch_threads

SMOOTHING = 0.25


class PlainLoop:
    """The same training as a plain loop.

    Attributes
    ----------
    front, cloud : the layers on both sides of the cut.
    """

    def __init__(self, arm: str, precision: str) -> None:
        self._sifts, self._bf16 = arm == "siftfunnel", precision == "bf16"
        self.front = _sifting_layers() if self._sifts else _plain_layers()
        self.cloud = _cloud_layers(self._sifts)
        edge, cloud = halves(arm)
        for ours, theirs in ((self.front, edge.front_end), (self.cloud, cloud.trunk)):
            ours.load_state_dict(
                dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
            )
            ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = [*self.front.parameters(), *self.cloud.parameters()]
        self._adam = torch.optim.Adam(
            self.parameters,
            lr=0.001,
            betas=(0.5, 0.999),
            amsgrad=True,
            weight_decay=0.001,
            fused=True,
        )
        data = random_images()
        self._pixels = torch.from_numpy(data.images)
        self._labels = torch.from_numpy(data.labels)
        self._held_out = torch.from_numpy(data.validation_images)
        self._held_out_labels = torch.from_numpy(data.validation_labels)
        self._options = section(precision, 1)
        self._rng = torch.Generator().manual_seed(0)

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of one batch of images in [0, 1]."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._bf16):
            z = self.front((x - MEAN) / STD)
            logits = self.cloud(z)
        z, logits = z.float(), logits.float()
        if not self._sifts:
            return functional.cross_entropy(logits, labels)
        targets = torch.full_like(logits, SMOOTHING / (CLASSES - 1))
        targets.scatter_(1, labels[:, None], 1.0 - SMOOTHING)
        task = functional.kl_div(functional.log_softmax(logits, 1), targets, reduction="batchmean")
        return (
            5.0 * task
            + 2.0 * distance_correlation_squared(x, z)
            + 0.03 * z.abs().mean()
            + 2.0 * channel_redundancy(z)
        )

    def step(self, rows: Tensor) -> None:
        """Train on some images."""
        x = augment(_to_unit(self._pixels[rows]), self._options.augmentation, self._rng)
        loss = self.loss(x, self._labels[rows])
        self._adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._adam.step()

    def epoch(self) -> float:
        """Train on all images once; return the validation accuracy."""
        self.front.train()
        self.cloud.train()
        order = torch.randperm(len(self._pixels), generator=self._rng)
        for rows in order.split(self._options.batch_size):
            self.step(rows)
        self.front.eval()
        self.cloud.eval()
        correct = 0
        with torch.no_grad():
            for x, labels in zip(
                self._held_out.split(EVALUATION_BATCH),
                self._held_out_labels.split(EVALUATION_BATCH),
                strict=True,
            ):
                logits = self.cloud(self.front((_to_unit(x) - MEAN) / STD))
                correct += int((logits.argmax(dim=1) == labels).sum())
        return correct / len(self._held_out)


def _to_unit(pixels: Tensor) -> Tensor:
    return pixels.contiguous(memory_format=torch.channels_last).float().div_(255.0)


def _plain_layers() -> nn.Sequential:
    return nn.Sequential(conv_block(3, 64), conv_block(64, 128))


def _sifting_layers() -> nn.Sequential:
    return nn.Sequential(
        conv_block(3, 64),
        SqueezeExcitation(64, 32),
        TripletAttention(),
        nn.Conv2d(64, 16, 1),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 12, 1),
        funnel_tail(12),
        SqueezeExcitation(12, 4),
        Cbam(12, 6),
    )


def _cloud_layers(sifts: bool) -> nn.Sequential:
    first = (widen(12, 128), TripletAttention()) if sifts else ()
    return nn.Sequential(
        *first,
        conv_block(128, 256),
        conv_block(256, 512),
        nn.Flatten(),
        nn.Linear(512 * 2 * 2, 5 * CLASSES),
        nn.Dropout(0.5),
        nn.Linear(5 * CLASSES, CLASSES),
    )


def run(case: str, devices: int, epochs: int) -> list[float]:
    """Return the seconds of each epoch of one of the cases, on all cores."""
    _, arm, precision = case.split(" ")
    tune_malloc()
    loop = PlainLoop(arm, precision)
    ends = [time.perf_counter()]
    with torch_threads(available_cores()):
        for _ in range(epochs):
            loop.epoch()
            ends.append(time.perf_counter())
    return [end - start for start, end in itertools.pairwise(ends)]
