"""Figure of the arms' training."""

from typing import TYPE_CHECKING

import numpy as np

from testbed.pages import style
from testbed.results.reading import Results, Rows
from testbed.results.schema import ArmResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def training_curves(results: Results) -> "Figure | None":
    """Draw training loss and validation accuracy per round (or provider's epoch) and arm."""
    from matplotlib.ticker import MaxNLocator

    if len(results.rounds) == 0:
        return None
    made, axes = style.figure(1, 2, 3.0)
    left, right = axes[0]
    for index, arm in enumerate(results.arms):
        rows = results.rounds.where(arm=arm.name)
        look = {"color": style.colour(index), "linestyle": style.dash(index), "label": arm.name}
        few = "o" if len(rows) <= 25 else None
        left.plot(rows["round"], rows["training_loss"], marker=few, markersize=3, **look)
        accuracy = rows["validation_accuracy"]
        known = ~np.isnan(accuracy)  # rounds without evaluation
        right.plot(rows["round"][known], accuracy[known], marker=few, markersize=3, **look)
        _mark_deployed(right, arm, rows, style.colour(index))
    left.set(title="Loss", ylabel="training loss (nats)", xlabel=_steps(results.rounds))
    right.set(title="Accuracy", ylabel="validation accuracy", xlabel=_steps(results.rounds))
    style.percent_axis(right.yaxis)
    right.set_ylim(0, 1.02)
    left.set_ylim(bottom=0)
    majority = results.summary.data.majority_class_accuracy
    style.reference_line(right, majority, "majority class")
    for panel in (left, right):
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend()
    return made


def _steps(rounds: Rows) -> str:
    """Say what the rows count."""
    protocols = set(rounds["protocol"])
    if protocols == {"provider"}:
        return "epoch at the provider (ring: deployed)"
    return "epoch at the provider (ring: deployed), then round" if len(protocols) > 1 else "round"


def _mark_deployed(panel: "Axes", arm: ArmResult, rows: Rows, colour: str) -> None:
    """Put a ring around the provider's epoch whose weights went to the devices."""
    provider = arm.training.provider
    if provider is None:
        return
    deployed = rows["round"] == provider.deployed_epoch
    panel.plot(
        rows["round"][deployed],
        rows["validation_accuracy"][deployed],
        linestyle="none",
        marker="o",
        markersize=8,
        markerfacecolor="none",
        markeredgecolor=colour,
    )
