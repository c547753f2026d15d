"""Uniform quantisation of the features to 8, 4 or 2 bits, in training and in serving.

Affine with an integer zero point and the range of each image (Jacob et al. 2018, arXiv 1712.05877,
eq. 1 and section 3), with a straight-through gradient. Rounding also destroys information that an
inversion needs; the codes travel packed, so that fewer bits are fewer bytes.
"""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from clients.defences.base import Defence, Wrapping, WrappingOptions
from clients.defences.noise import measured_signal_to_noise_db
from testbed.core.registries import DEFENCES
from testbed.scenario.components import DefenceChoice, component
from testbed.wire.quantisation import quantise


class QuantisationOptions(WrappingOptions):
    """Bits per feature, and the defence underneath."""

    defence_name = "quantisation"
    bits: Literal[8, 4, 2] = Field(default=8, description="per feature")
    base: DefenceChoice = component(DEFENCES, "none", "the defence underneath")


@DEFENCES.register(
    "quantisation",
    "rounds features to 8, 4 or 2 bits; on top of any other defence",
    QuantisationOptions,
    source="Jacob et al. 2018, arXiv 1712.05877, eq. 1",
)
class Quantisation(Wrapping):
    """Quantises what its base releases."""

    def __init__(self, options: QuantisationOptions) -> None:
        super().__init__(options)
        self.bits = options.bits
        self.wire = replace(self.base.wire, bits=options.bits)

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return the base's release, each feature rounded to one of 2^bits values."""
        return quantise(self.base.release(z, rng), self.bits)

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return the base's statistics, or those of the rounding if the base releases z itself."""
        if type(self.base).release is Defence.release:
            return {"quantisation_snr_db": measured_signal_to_noise_db(z, released)}
        return self.base.release_statistics(z, released)
