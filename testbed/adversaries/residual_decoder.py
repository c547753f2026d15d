"""Capacity-matched residual decoder, trained on released features.

The attacker queries the deployed front-end with auxiliary images and learns to invert it. The body
is the same for every defence. Features are normalised per channel by auxiliary statistics, random
releases are drawn anew every epoch, and training ends on a plateau of the attacker's validation
error. The best epoch's weights attack the victims.
"""

import copy
import math
from dataclasses import replace
from functools import cache
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from testbed.adversaries import augmentation
from testbed.adversaries.base import (
    Attack,
    EpochErrors,
    Evidence,
    FloatArray,
    Reconstruction,
    Report,
)
from testbed.adversaries.decoder_network import (
    CAPACITIES,
    CELL,
    Capacity,
    DecoderNetwork,
    InputAdapter,
    Networks,
    rows,
    update,
)
from testbed.adversaries.effort import Effort, Sizes
from testbed.adversaries.mean_image import mean_of
from testbed.adversaries.released import ChannelNormaliser, ReleasedFeatures
from testbed.core import seeds
from testbed.core.compute import on_device
from testbed.core.registries import ATTACKS
from testbed.core.registry import Options, Positive
from testbed.scenario.threat_model import ThreatModel

FEW_IMAGES = 100
EXPECTED_EPOCHS = 1.0
"""Share of the largest number of epochs that the dry run expects until the plateau."""

Shape = tuple[int, int, int]
"""Channels, height and width."""
_DECAY = 0.4
_CHUNK = 256


class TrainingOptions(Options):
    """Options of the training of any decoder."""

    capacity: Capacity = "small"
    max_epochs: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=60, description="upper bound; training usually ends before, on a plateau"
    )
    patience: Annotated[int, Field(ge=1)] = Field(
        default=3, description="epochs without progress before the learning rate decays"
    )
    decays: Annotated[int, Field(ge=0)] = Field(
        default=3, description="learning-rate decays (x 0.4) before a plateau ends the training"
    )
    min_progress: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.01, description="relative decrease of the validation error that is progress"
    )
    min_epoch_steps: Annotated[int, Field(ge=1)] = Field(
        default=18,
        description="least steps of an epoch; with few images an epoch is several passes, so that "
        "a plateau is not mistaken after a handful of steps",
    )
    batch_size: Annotated[int, Field(ge=1)] = 8
    learning_rate: Positive = 0.003
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="of the forward and backward passes in training; weights, loss and "
        "reconstruction are fp32. bf16 is faster on processors with instructions for it only",
    )

    def varies(self, number: int, images: int) -> bool:
        """Return whether a pass, numbered from 0, is over variations of the images."""
        raise NotImplementedError


class ResidualDecoderOptions(TrainingOptions):
    """Options of the residual decoder."""

    augment: bool | None = Field(
        default=None,
        description="vary the auxiliary images with every pass, unless queries are limited or "
        "releases averaged; each variation is queried. null: only with fewer than "
        f"{FEW_IMAGES} images; with more it costs epochs without a gain",
    )

    def varies(self, number: int, images: int) -> bool:
        """Return whether a pass, numbered from 0, is over variations of the images."""
        varied = images < FEW_IMAGES if self.augment is None else self.augment
        # The first pass uses the unchanged images, whose features fitted the normaliser.
        return varied and number > 0


@ATTACKS.register(
    "residual_decoder",
    "capacity-matched residual decoder, trained to convergence on the defended wire",
    ResidualDecoderOptions,
)
class ResidualDecoder(Attack):
    """The main trained attack."""

    options: ResidualDecoderOptions
    threat = ThreatModel(queries=True)
    search_space: ClassVar = {
        "capacity": ("small", "medium", "large"),
        "learning_rate": (0.001, 0.003, 0.01),
        "augment": (None, False, True),
    }
    presets: ClassVar = {
        "fast": {
            "max_epochs": 15,
            "batch_size": 16,
            "learning_rate": 0.004,
            "patience": 2,
            "decays": 1,
        },
        "thorough": {"capacity": "medium", "max_epochs": 150, "patience": 4},
    }

    def mount(self, evidence: Evidence, seed: int, report: Report) -> Reconstruction:
        """Train on auxiliary images, keep the best epoch, reconstruct the intercepts."""
        training = DecoderTraining(self.options, evidence, seed)
        training.run(report)
        return training.account(training.reconstruct(evidence.intercepts.features))

    def memory_bytes(self, sizes: Sizes) -> int:
        """Return the bytes of the features and the images that a decoder is trained on."""
        return decoder_bytes(sizes)

    def effort(self, evidence: Evidence, intercepts: int) -> list[Effort]:
        """Return the steps of the training."""
        return decoder_effort(self.options, evidence, intercepts)


def decoder_effort(
    options: TrainingOptions,
    evidence: Evidence,
    decoded: int,
    training_of: type["DecoderTraining"] | None = None,
) -> list[Effort]:
    """Return the steps of a decoder's training for ``EXPECTED_EPOCHS`` of its largest number.

    Parameters
    ----------
    decoded : images that it decodes afterwards.
    training_of : the decoder's training, by default the residual decoder's.
    """
    released = ReleasedFeatures(evidence)
    images, size = len(released.auxiliary.images), options.batch_size
    steps_per_pass = math.ceil(images / size)
    epochs = max(1.0, EXPECTED_EPOCHS * options.max_epochs)
    passes = round(epochs * math.ceil(options.min_epoch_steps / steps_per_pass))
    validation = len(released.auxiliary_validation.images)
    batch = min(size, images)

    @cache
    def training() -> DecoderTraining:
        few = replace(
            evidence,
            auxiliary=evidence.auxiliary.first(batch),
            auxiliary_validation=evidence.auxiliary_validation.first(1),
            query_limit=None,
            replays=1,
        )
        return (training_of or DecoderTraining)(options, few, 0)

    @cache
    def optimiser() -> torch.optim.Optimizer:
        return training()._optimiser(options.learning_rate)

    @cache
    def pairs() -> tuple[Tensor, Tensor]:
        return training()._pass(0)

    def step() -> None:
        training().step(optimiser(), training().loss(*pairs()))

    shape = "x".join(str(side) for side in evidence.auxiliary.images.shape[1:])
    name = (training_of or DecoderTraining).name
    kind = f"{options.capacity} {name} for {shape}, batch {batch}, {options.precision}"
    varied = sum(options.varies(number, images) for number in range(passes))
    if not released.may_vary:
        varied = 0
    return [
        released.effort(passes if released.is_random else 1 + varied, varied > 0),
        Effort(passes * steps_per_pass, f"step of a {kind}", step),
        Effort(
            ((epochs + 1.0) * validation + decoded) / batch,
            f"output of a {kind}",
            lambda: training()._decode(pairs()[0]),
        ),
    ]


def decoder_bytes(sizes: Sizes) -> int:
    """Return the bytes of a decoder's training: features as released and as inputs, and images."""
    images = sizes.auxiliary + sizes.validation
    features = 3 * images + 2 * sizes.intercepts + 3 * _CHUNK
    return 4 * (sizes.features * features + 3 * sizes.pixels * images)


class DecoderTraining:
    """One training of a decoder; ``reconstruct`` then uses the best epoch's weights.

    Attributes
    ----------
    released : what it queries.
    """

    name: ClassVar[str] = "residual_decoder"

    def __init__(self, options: TrainingOptions, evidence: Evidence, seed: int) -> None:
        self.options = options
        self.curve: list[EpochErrors] = []
        self.best_epoch = 0
        self.reached_plateau = False
        self.released = ReleasedFeatures(evidence)
        first = self.released.training(0)
        self._normalise = ChannelNormaliser.fit(first)
        self._is_flat = not self._normalise.scale.any()
        self._mean = torch.from_numpy(mean_of(evidence.auxiliary))
        self._images = self.released.auxiliary.images
        self._seed = seed
        self._order = seeds.torch_generator(seed, f"{self.name} batches")
        self.network = self._built(_shape(first), _shape(self._images))
        self._validation_inputs = self._inputs(self.released.validation())
        self._fixed: tuple[Tensor, Tensor] | None = None

    def _built(self, feature_shape: Shape, image_shape: Shape) -> Networks:
        """Return the network with its initial weights."""
        rng = seeds.torch_generator(self._seed, f"{self.name} weights")
        size = CAPACITIES[self.options.capacity]
        network: DecoderNetwork = DecoderNetwork(feature_shape, image_shape, size, rng).to(
            memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        return network

    def run(self, report: Report) -> None:
        """Train until the validation error stops decreasing, then restore the best epoch.

        Afterwards ``reached_plateau`` tells whether this happened before the limit of epochs.
        """
        options = self.options
        optimiser = self._optimiser(options.learning_rate)
        start = float(self._residuals(self._images).square().mean())
        self.curve.append(self._evaluate(0, start))
        best = reference = self.curve[0].validation_mse
        best_weights = copy.deepcopy(self.network.state_dict())
        stale = decays = 0
        for epoch in range(1, options.max_epochs + 1):
            point = self._evaluate(epoch, self._train_epoch(epoch, optimiser))
            self.curve.append(point)
            report(f"epoch {epoch}, validation MSE {point.validation_mse:.5f}")
            if point.validation_mse < best:
                best, self.best_epoch = point.validation_mse, epoch
                best_weights = copy.deepcopy(self.network.state_dict())
            if point.validation_mse < reference * (1.0 - options.min_progress):
                reference, stale = point.validation_mse, 0
                continue
            stale += 1
            if stale == options.patience:
                if decays == options.decays:
                    self.reached_plateau = True
                    break
                decays, stale = decays + 1, 0
                # Continue from the best weights, in case the training has diverged.
                self.network.load_state_dict(best_weights)
                optimiser = self._optimiser(options.learning_rate * _DECAY**decays)
        self.network.load_state_dict(best_weights)

    def _optimiser(self, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), learning_rate, fused=True)

    def step(self, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        """Take one step of the training."""
        update(optimiser, loss)

    def _residuals(self, images: FloatArray) -> Tensor:
        """Return what is to be learned, in the network's cells: their order changes no error."""
        residuals = torch.from_numpy(_owned(images)) - self._mean
        cells = nn.functional.pixel_unshuffle(residuals, CELL)
        return cells.contiguous(memory_format=torch.channels_last)

    def _pass(self, number: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of one pass over the auxiliary images, numbered from 0."""
        released, images = self.released, self._images
        varied = self.options.varies(number, len(images)) and released.may_vary
        if varied and not self._is_flat:
            images = augmentation.vary(images, self._seed, number)
            return self._inputs(released.release(images, number)), self._residuals(images)
        if self._fixed is not None:
            return self._fixed
        inputs_and_targets = self._inputs(released.training(number)), self._residuals(images)
        if not released.is_random:
            self._fixed = inputs_and_targets
        return inputs_and_targets

    @torch.no_grad()
    def _inputs(self, features: FloatArray) -> Tensor:
        """Return normalised and folded features, channels last."""
        adapter: InputAdapter = self.network.adapter
        # Part by part: the copies of gigabytes of features would not fit in memory together.
        parts = (features[start : start + _CHUNK] for start in range(0, len(features), _CHUNK))
        folded = [adapter.folded(_channels_last(self._normalise(part))) for part in parts]
        return torch.cat(folded) if len(folded) > 1 else folded[0]

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error of a batch, over all networks."""
        low = self.options.precision == "bf16"
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=low):
            cells = self.network.cells(inputs).float()
        loss: Tensor = nn.functional.mse_loss(cells, targets.expand_as(cells))
        return loss

    def _train_epoch(self, epoch: int, optimiser: torch.optim.Optimizer) -> float:
        """Train on as many passes as make ``min_epoch_steps``; return the mean squared error."""
        steps_per_pass = math.ceil(len(self._images) / self.options.batch_size)
        passes = math.ceil(self.options.min_epoch_steps / steps_per_pass)
        losses: list[Tensor] = []
        sizes: list[int] = []
        for number in range((epoch - 1) * passes, epoch * passes):
            inputs, targets = self._pass(number)
            order = torch.randperm(len(inputs), generator=self._order)
            for batch in torch.split(order, self.options.batch_size):
                loss = self.loss(on_device(rows(inputs, batch)), on_device(rows(targets, batch)))
                self.step(optimiser, loss)
                losses.append(loss.detach())
                sizes.append(len(batch))
        # Read once: a GPU would wait for every step.
        values: list[float] = torch.stack(losses).tolist()
        total = sum(value * size for value, size in zip(values, sizes, strict=True))
        return total / (passes * len(self._images))

    def _evaluate(self, epoch: int, training_mse: float) -> EpochErrors:
        error = self.released.error_of(self._decode(self._validation_inputs))
        return EpochErrors(epoch, training_mse, error)

    @torch.no_grad()
    def _decode(self, inputs: Tensor) -> FloatArray:
        parts = [
            self._mean + self.network.decoded(on_device(part)).cpu()
            for part in torch.split(inputs, _CHUNK)
        ]
        images: FloatArray = torch.cat(parts).clamp_(0.0, 1.0).contiguous().numpy()
        return images

    def reconstruct(self, features: FloatArray) -> FloatArray:
        """Return images in [0, 1], (N, C, H, W), of released features (N, C', H', W')."""
        if len(features) == 0:
            return np.empty((0, *self._mean.shape), dtype=np.float32)
        return self._decode(self._inputs(features))

    def account(self, images: FloatArray) -> Reconstruction:
        """Return ``images`` with the record of this training."""
        return Reconstruction(
            images=images,
            training_curve=self.curve,
            best_epoch=self.best_epoch,
            reached_plateau=self.reached_plateau,
            validation_mse=self.curve[self.best_epoch].validation_mse,
            body_parameters=self.network.body_parameters(),
            adapter_parameters=self.network.adapter_parameters(),
            again=self.reconstruct,
        )


def _owned(array: FloatArray) -> FloatArray:
    return array if array.flags.writeable else array.copy()  # shared arrays arrive read-only


def _channels_last(array: FloatArray) -> Tensor:
    return torch.from_numpy(_owned(array)).to(memory_format=torch.channels_last)


def _shape(array: FloatArray) -> Shape:
    channels, height, width = array.shape[1:]
    return channels, height, width
