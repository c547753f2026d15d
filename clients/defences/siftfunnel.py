"""SiftFunnel's loss (arXiv 2501.00824): label smoothing, correlation penalties and sparsity.

    L = alpha * KL(smoothed label || p) + beta * D(x, z) + lambda * mean|z| + gamma * R(z)

The default weights are the published ones, with a known side effect: D is the biased V-statistic
and R counts the diagonal, so both reward dead channels.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from clients.defences.base import Batch, Defence, smoothed_targets
from clients.defences.nopeek import distance_correlation_squared
from testbed.core.registries import DEFENCES
from testbed.core.registry import NonNegative, Options, Positive


class SiftFunnelOptions(Options):
    """Weights of the loss; defaults as published."""

    alpha: Positive = 5.0
    beta: NonNegative = 2.0
    gamma: NonNegative = 2.0
    sparsity: NonNegative = 0.03
    smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.25
    regularise: Literal["wire", "pre_funnel"] = Field(
        default="wire", description="penalise the transmitted tensor, or the output of block 1"
    )


def channel_redundancy(z: Tensor) -> Tensor:
    """Return the mean squared entry of the channels' Pearson correlation over space, per sample.

    The diagonal counts; a dead channel contributes 0 everywhere, also on the diagonal.

    Parameters
    ----------
    z : features (N, C, H, W).
    """
    flat = z.flatten(2)
    deviations = flat - flat.mean(dim=2, keepdim=True)
    norms = deviations.square().sum(dim=2, keepdim=True).add(1e-10).sqrt()
    units = deviations / norms
    return (units @ units.transpose(1, 2)).square().mean()


@DEFENCES.register(
    "siftfunnel",
    "label smoothing, distance and channel correlation penalties",
    SiftFunnelOptions,
    source="arXiv 2501.00824",
)
class SiftFunnel(Defence):
    """Label smoothing with D, sparsity and R."""

    options: SiftFunnelOptions

    def __init__(self, options: SiftFunnelOptions) -> None:
        super().__init__(options)
        self.task_weight = options.alpha

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return smoothed labels (N, K)."""
        return smoothed_targets(labels, num_classes, self.options.smoothing)

    def penalty(self, batch: Batch) -> Tensor | None:
        """Return beta * D + sparsity * mean|z| + gamma * R on the regularised tensor."""
        options = self.options
        tensor = batch.z
        if options.regularise == "pre_funnel":
            if batch.pre_funnel is None:
                raise ValueError("regularise: pre_funnel needs a front-end with a funnel")
            tensor = batch.pre_funnel
        return (
            options.beta * distance_correlation_squared(batch.x, tensor)
            + options.sparsity * tensor.abs().mean()
            + options.gamma * channel_redundancy(tensor)
        )
