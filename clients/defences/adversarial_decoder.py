"""Adversarial training against an inversion decoder (DeepObfuscator, ResSFL).

    front-end:  L = CE + weight * max(0, 1 - MSE(A(z), x) / MSE(mean image, x))
    decoder A:  MSE(A(z), x)

in alternation, as in DeepObfuscator (Li et al. 2021, arXiv 1909.04126) and in ResSFL's
attacker-aware training (Li et al. 2022, arXiv 2205.04007, algorithm 1). The papers subtract the
error or add the similarity of the reconstruction. Here the error is relative to that of the mean
image: the weight then means the same for every dataset, and the penalty is zero once the decoder
does no better than the mean image. The decoder exists in training only: devices train it, at their
cost, but do not deploy it.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from clients.defences.base import Batch, Defence, Shape
from clients.defences.inversion_decoder import InversionDecoder, explained_share, inversion_loss
from testbed.core.registries import DEFENCES
from testbed.core.registry import Options, Positive


class AdversarialDecoderOptions(Options):
    """Weight of the penalty, and the decoder."""

    weight: Positive = Field(
        default=1.0, description="of the variance share that the decoder explains"
    )
    decoder_width: Annotated[int, Field(ge=4, le=256)] = Field(
        default=32, description="channels of the decoder's hidden layers"
    )
    decoder_learning_rate: Positive = Field(default=0.003, description="of the decoder's Adam")


@DEFENCES.register(
    "adversarial_decoder",
    "trains the front-end against an inversion decoder, in alternation",
    AdversarialDecoderOptions,
    source="Li et al. 2021, arXiv 1909.04126; Li et al. 2022, arXiv 2205.04007, algorithm 1",
)
class AdversarialDecoder(Defence):
    """Trains the front-end against a decoder, by the formulas above."""

    adversary: InversionDecoder

    options: AdversarialDecoderOptions

    def build(self, image_shape: Shape, feature_shape: Shape, num_classes: int) -> None:
        """Build the decoder."""
        self.adversary = InversionDecoder(feature_shape, image_shape, self.options.decoder_width)

    def penalty(self, batch: Batch) -> Tensor | None:
        """Return the weighted share of the images' variance that the decoder explains."""
        return self.options.weight * explained_share(self.adversary, batch)

    def adversary_loss(self, batch: Batch) -> Tensor:
        """Return the decoder's error."""
        return inversion_loss(self.adversary, batch)

    def adversary_learning_rate(self, name: str) -> float:
        """Return the decoder's learning rate."""
        return self.options.decoder_learning_rate
