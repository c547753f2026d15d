"""The interface between split training and attackers at the cloud."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class TrainingStep:
    """One step of split training as the cloud sees it, with one item per device of the cohort.

    Attributes
    ----------
    features, targets : what the devices sent, (n_i, C, H, W) and (n_i, K).
    gradients : d(mean loss of a device's batch) / d(its features), the honest gradients.
    tiers : the tier whose front-end each device trains.
    """

    server_round: int
    step: int
    features: Sequence[Tensor]
    targets: Sequence[Tensor]
    gradients: Sequence[Tensor]
    tiers: Sequence[int]


class CloudAttackers(Protocol):
    """Attackers at the cloud during training."""

    def gradients(self, step: TrainingStep) -> Sequence[Tensor]:
        """Observe a step and return the gradients to send, the honest ones or others."""
