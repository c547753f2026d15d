"""Adversarial training against an inversion decoder (DeepObfuscator, ResSFL).

    front-end:  L = CE + weight * max(0, 1 - MSE(A(z), x) / MSE(mean image, x))
    decoder A:  MSE(A(z), x)

in alternation: the game of DeepObfuscator (Li et al. 2021, arXiv 1909.04126) and of ResSFL's
attacker-aware training (Li et al. 2022, arXiv 2205.04007, algorithm 1). They subtract the error or
add the similarity of the reconstruction; here the error is relative to that of the mean image, so
that the weight means the same for every data set and the game ends where nothing is left to hide.
The decoder exists in training only: devices train it, and pay for it, but do not deploy it.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from clients.defences.base import Batch, Defence, Shape
from clients.defences.inversion_decoder import InversionDecoder, explained_share, inversion_loss
from testbed.core.registries import DEFENCES
from testbed.core.registry import Options

Positive = Annotated[float, Field(gt=0.0)]


class AdversarialDecoderOptions(Options):
    """Weight of the game, and the decoder."""

    weight: Positive = Field(default=1.0, description="of what the decoder gets right, 0 to 1")
    decoder_width: Annotated[int, Field(ge=4, le=256)] = Field(
        default=32, description="channels of the decoder's hidden layers"
    )
    decoder_learning_rate: Positive = Field(default=0.003, description="of its Adam")


class AdversarialDecoder(Defence):
    """Trains the front-end against a decoder; see the module's formulas."""

    adversary: InversionDecoder

    def __init__(self, options: AdversarialDecoderOptions) -> None:
        self.options = options

    def build(self, image_shape: Shape, feature_shape: Shape, num_classes: int) -> None:
        """Build the decoder."""
        self.adversary = InversionDecoder(feature_shape, image_shape, self.options.decoder_width)

    def penalty(self, batch: Batch) -> Tensor | None:
        """Return the weighted share of the images' variance that the decoder gets right."""
        return self.options.weight * explained_share(self.adversary, batch)

    def adversary_loss(self, batch: Batch) -> Tensor:
        """Return the decoder's error."""
        return inversion_loss(self.adversary, batch)

    def adversary_learning_rate(self, name: str) -> float:
        """Return the decoder's learning rate."""
        return self.options.decoder_learning_rate


@DEFENCES.register(
    "adversarial_decoder",
    "trains the front-end against an inversion decoder, in alternation",
    AdversarialDecoderOptions,
    source="Li et al. 2021, arXiv 1909.04126; Li et al. 2022, arXiv 2205.04007, algorithm 1",
)
def adversarial_decoder(options: AdversarialDecoderOptions) -> Defence:
    """Build adversarial training against a decoder."""
    return AdversarialDecoder(options)
