"""DISCO: channels are pruned by a learned, image-dependent filter (Singh et al., CVPR 2021).

    pruner, front-end:  L = CE + weight * max(0, 1 - MSE(A(m z), x) / MSE(mean image, x))
    attacker A:         MSE(A(m z), x)

(arXiv 2012.11025: a pruning network scores the channels of z, the mask m drops a given share of
them, and pruner and attacker are trained against each other.) The mask is hard; its gradient is
that of a sigmoid of the scores (straight-through). The attacker is an inversion decoder, since
images rather than attributes are protected here. Its error is relative to the mean image's (see
``clients.defences.adversarial_decoder``). The pruner runs on the device; pruned channels are zero
and not sent. The front-end is trained together with the pruner.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from clients.defences.adversarial_decoder import AdversarialDecoder, AdversarialDecoderOptions
from clients.defences.base import Shape
from testbed.core.registries import DEFENCES
from testbed.wire.encoding import WireFormat


class DiscoOptions(AdversarialDecoderOptions):
    """The pruned share, and the adversarial training of the pruner."""

    pruned_share: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.5, description="share of the channels of each image that is dropped"
    )


class _Pruner(nn.Module):
    """Scores channels by their means: two linear layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(4, channels // 4)
        self.score = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )

    def forward(self, z: Tensor) -> Tensor:
        scores: Tensor = self.score(z.mean(dim=(2, 3)))
        return scores


@DEFENCES.register(
    "disco",
    "prunes channels by a learned, image-dependent filter, against an inversion decoder",
    DiscoOptions,
    source="Singh et al. 2021, arXiv 2012.11025",
)
class Disco(AdversarialDecoder):
    """Prunes channels by a learned filter, by the formulas above."""

    options: DiscoOptions
    release_layers: _Pruner
    wire = WireFormat(sparse=True)

    def build(self, image_shape: Shape, feature_shape: Shape, num_classes: int) -> None:
        """Build pruner and attacker.

        Raises
        ------
        ValueError : the share leaves all or none of the channels.
        """
        super().build(image_shape, feature_shape, num_classes)
        share = self.options.pruned_share
        self.pruned = round(share * feature_shape[0])
        if not 0 < self.pruned < feature_shape[0]:
            raise ValueError(
                f"pruned_share {share:g} of {feature_shape[0]} channels drops {self.pruned}: at "
                "least one channel must be dropped and one kept"
            )
        self.release_layers = _Pruner(feature_shape[0])

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return z with the channels of the lowest scores set to zero."""
        scores = self.release_layers(z)
        soft = torch.sigmoid(scores)
        dropped = scores.detach().topk(self.pruned, dim=1, largest=False).indices
        hard = torch.ones_like(soft).scatter(1, dropped, 0.0)
        mask = hard + (soft - soft.detach())
        # Adding zero turns the -0.0 of a dropped negative feature into 0.0.
        return z * mask[:, :, None, None] + 0.0

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return the share of channels sent per image, and the share that is sent at all."""
        sent = (released != 0.0).flatten(2).any(dim=2).float()
        return {
            "sent_channels_share": float(sent.mean()),
            "ever_sent_channels_share": float((sent.sum(dim=0) > 0).float().mean()),
        }
