"""Top-k sparsification: of each image's features only the largest are sent.

Keeps the k features of largest magnitude and sets the others to zero (Aji and Heafield 2017, arXiv
1704.05021, there for gradients; for features of split learning Zheng et al. 2023, arXiv
2305.18469), with a straight-through gradient. Positions and values travel in the fewest bytes.
"""

from dataclasses import replace
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from clients.defences.base import Defence
from clients.defences.wrapping import Wrapping, refuse_twice
from testbed.core.registries import DEFENCES
from testbed.core.registry import Options
from testbed.scenario.components import DefenceChoice, component
from testbed.wire.quantisation import straight_through


class TopKOptions(Options):
    """How much is kept, and of what."""

    share: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.1, description="share of each image's features that is sent, at least one"
    )
    base: DefenceChoice = component(DEFENCES, "none", "the defence underneath")

    @model_validator(mode="after")
    def _once(self) -> Self:
        refuse_twice("top_k", self.base)
        return self


def sparsify(z: Tensor, share: float) -> Tensor:
    """Keep the ``share`` of each image's features (N, ...) that is largest in magnitude.

    The others are zero; the gradient is passed straight through to all of them.
    """
    flat = z.detach().flatten(1)
    count = max(1, round(share * flat.shape[1]))
    largest = flat.abs().topk(count, dim=1).indices
    kept = torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest))
    return straight_through(kept.reshape(z.shape), z)


class TopK(Wrapping):
    """Sends the largest features of what its base releases."""

    def __init__(self, options: TopKOptions) -> None:
        super().__init__(options.base)
        self.share = options.share
        self.wire = replace(self.base.wire, sparse=True)

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return the base's release with all but its largest features set to zero."""
        return sparsify(self.base.release(z, rng), self.share)

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return the base's statistics and the share of features that is not zero."""
        sent = float((released != 0.0).float().mean())
        return {**self.base.release_statistics(z, released), "sent_share": sent}


@DEFENCES.register(
    "top_k",
    "sends the largest features only; on top of any other defence",
    TopKOptions,
    source="Aji and Heafield 2017, arXiv 1704.05021; Zheng et al. 2023, arXiv 2305.18469",
)
def top_k(options: TopKOptions) -> Defence:
    """Build the sparsifying defence."""
    return TopK(options)
