"""Decisions between the provider's epochs, as functions of the earlier epochs' records.

They have no state, so a resumed training makes the same decisions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from testbed.scenario.training import ProviderSection

PLATEAU_THRESHOLD = 1e-4  # least relative decrease, as in torch's ReduceLROnPlateau


@dataclass(frozen=True)
class EpochRecord:
    """The provider's measurements of an epoch (from 1).

    Attributes
    ----------
    training_loss, penalty, training_accuracy : means over the epoch's images; the loss is the
        unweighted Kullback-Leibler divergence from the targets.
    validation_loss, validation_accuracy : cross-entropy and accuracy against the labels.
    """

    epoch: int
    training_loss: float
    penalty: float
    training_accuracy: float
    validation_loss: float
    validation_accuracy: float


def learning_rate_scale(section: ProviderSection, history: Sequence[EpochRecord]) -> float:
    """Return the factor on the learning rate in the epoch after ``history``."""
    if section.learning_rate_schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * len(history) / section.epochs))
    if section.learning_rate_schedule == "plateau":
        losses = [record.validation_loss for record in history]
        return section.plateau_factor ** plateaus(losses, section.plateau_patience_epochs)
    return 1.0


def plateaus(losses: Sequence[float], patience: int) -> int:
    """Count how often the losses stopped decreasing for more than ``patience`` epochs in a row."""
    best, stale, count = math.inf, 0, 0
    for loss in losses:
        if loss < best * (1.0 - PLATEAU_THRESHOLD):
            best, stale = loss, 0
        else:
            stale += 1
        if stale > patience:
            count, stale = count + 1, 0
    return count


def best_epoch(section: ProviderSection, history: Sequence[EpochRecord]) -> int:
    """Return the epoch whose weights are deployed: the first best one, or the last."""
    if section.selection == "last":
        return history[-1].epoch

    def merit(record: EpochRecord) -> float:
        accuracy = section.selection == "accuracy"
        value = record.validation_accuracy if accuracy else -record.validation_loss
        finite = math.isfinite(record.validation_loss) and math.isfinite(value)
        return value if finite else -math.inf

    return max(history, key=merit).epoch


def is_over(section: ProviderSection, history: Sequence[EpochRecord]) -> bool:
    """Return whether training ends: all epochs done, no progress for long, or a loss not finite."""
    if not history:
        return False
    if len(history) >= section.epochs or not math.isfinite(history[-1].training_loss):
        return True
    patience = section.early_stopping_epochs
    return patience is not None and len(history) - best_epoch(section, history) >= patience
