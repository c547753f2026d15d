"""The interface of a device's half for central training; ``clients`` implements it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class DefenceTerms(Protocol):
    """The parts of a defence that the loss needs; documented in ``clients.defences.base``."""

    task_weight: float

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the label distribution (N, K)."""

    def penalty(self, batch: Any) -> Tensor | None:
        """Return the defence's own loss terms, or None."""

    def adversary_loss(self, batch: Any) -> Tensor:
        """Return the loss of the adversary that trains in alternation."""

    def adversary_learning_rate(self, name: str) -> float:
        """Return the learning rate of one of the adversary's parameters."""


class EdgeInterface(Protocol):
    """A front-end with its defence, as on a device, with its own weights."""

    @property
    def front_end(self) -> nn.Module:
        """Return the module that is switched between training and evaluation."""

    @property
    def defence(self) -> DefenceTerms:
        """Return the defence."""

    def own_parameters(self) -> Mapping[str, nn.Parameter]:
        """Return all trained parameters, including the adversary's."""

    def own_adversary(self) -> Mapping[str, nn.Parameter]:
        """Return the adversary's parameters, by the names of ``adversary_learning_rate``."""

    def own_weights(self) -> Mapping[str, Tensor]:
        """Return all parameters and statistics."""

    def own_batch(self, x: Tensor, labels: Tensor, rng: torch.Generator) -> "EdgeBatch":
        """Run the front-end on images in [0, 1] and release its features."""

    def to(self, device: torch.device) -> None:
        """Move the weights."""


class EdgeBatch(Protocol):
    """A batch after its forward pass (clients.defences.base.Batch)."""

    @property
    def released(self) -> Tensor:
        """Return the features that the cloud gets, float32."""

    def without_gradients(self) -> "EdgeBatch":
        """Return the same values, detached from the front-end."""


@dataclass(frozen=True)
class ProviderTier:
    """One front-end that the provider trains.

    Attributes
    ----------
    entry : index of its entry into the cloud model.
    share : share of the devices; its weight in the loss and in the validation figures.
    """

    edge: EdgeInterface
    entry: int = 0
    share: float = 1.0
