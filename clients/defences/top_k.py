"""Top-k sparsification: only the largest features of each image are sent.

Keeps the k features of largest magnitude and sets the others to zero (Aji and Heafield 2017, arXiv
1704.05021, there for gradients; for features of split learning Zheng et al. 2023, arXiv
2305.18469), with a straight-through gradient. Positions and values travel in the fewest bytes.
"""

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from clients.defences.base import Wrapping, WrappingOptions
from testbed.core.registries import DEFENCES
from testbed.scenario.components import DefenceChoice, component
from testbed.wire.quantisation import straight_through


class TopKOptions(WrappingOptions):
    """Share of the features that is kept, and the defence underneath."""

    defence_name = "top_k"
    share: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.1, description="share of each image's features that is sent, at least one"
    )
    base: DefenceChoice = component(DEFENCES, "none", "the defence underneath")


def sparsify(z: Tensor, share: float) -> Tensor:
    """Keep the ``share`` of each image's features (N, ...) that is largest in magnitude.

    The others become zero; all of them get the gradient (straight-through).
    """
    flat = z.detach().flatten(1)
    count = max(1, round(share * flat.shape[1]))
    largest = flat.abs().topk(count, dim=1).indices
    kept = torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest))
    return straight_through(kept.reshape(z.shape), z)


@DEFENCES.register(
    "top_k",
    "sends only the largest features; on top of any other defence",
    TopKOptions,
    source="Aji and Heafield 2017, arXiv 1704.05021; Zheng et al. 2023, arXiv 2305.18469",
)
class TopK(Wrapping):
    """Sends the largest features of its base's release."""

    def __init__(self, options: TopKOptions) -> None:
        super().__init__(options)
        self.share = options.share
        self.wire = replace(self.base.wire, sparse=True)

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return the base's release with all but its largest features set to zero."""
        return sparsify(self.base.release(z, rng), self.share)

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return the base's statistics and the share of features that is not zero."""
        sent = float((released != 0.0).float().mean())
        return {**self.base.release_statistics(z, released), "sent_share": sent}
