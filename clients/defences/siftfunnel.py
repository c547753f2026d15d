"""SiftFunnel's loss (arXiv 2501.00824): label smoothing, correlation penalties and sparsity.

    L = alpha * KL(smoothed label || p) + beta * D(x, z) + lambda * mean|z| + gamma * R(z)

The default weights are the published ones, with a known side effect: D is the biased V-statistic
and R counts the diagonal, so both reward dead channels. The released code deviates from the paper's
formulas in two points, which ``published: exact`` takes over: R divides covariances (over n pixels)
by unbiased standard deviations, and the penalised tensor is the one before the funnel.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
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
    published: Literal["formula", "exact"] = Field(
        default="formula",
        description="R as in the paper, or as in the released code: entries smaller by "
        "((n - 1) / n)^2 for n pixels",
    )
    regularise: Literal["wire", "pre_funnel"] = Field(
        default="wire",
        description="penalise the transmitted tensor, or the input of the funnel (after block 1 "
        "and its attention); pre_funnel if published is exact",
    )

    @model_validator(mode="before")
    @classmethod
    def _released_tensor(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("published") == "exact":
            return {"regularise": "pre_funnel"} | values
        return values


def channel_redundancy(z: Tensor, unbiased: bool = False) -> Tensor:
    """Return the mean squared entry of the channels' Pearson correlation over space, per sample.

    The diagonal counts; a dead channel contributes 0 everywhere, also on the diagonal.

    Parameters
    ----------
    z : features (N, C, H, W).
    unbiased : divide covariances by unbiased standard deviations, as the released code does. All
        entries, also those of the diagonal, are then ((n - 1) / n)^2 of the squared correlation
        for n = H W.
    """
    flat = z.flatten(2)
    deviations = flat - flat.mean(dim=2, keepdim=True)
    norms = deviations.square().sum(dim=2, keepdim=True).add(1e-10).sqrt()
    units = deviations / norms
    scale = 1.0 - 1.0 / flat.shape[2] if unbiased else 1.0
    return (units @ units.transpose(1, 2) * scale).square().mean()


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
        self.penalises_distance_correlation = options.beta > 0.0

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
            + options.gamma * channel_redundancy(tensor, options.published == "exact")
        )
