"""Uniform quantisation of what is sent to 8, 4 or 2 bits, in training as in serving.

Affine with an integer zero point and the range of each image (Jacob et al. 2018, arXiv 1712.05877,
eq. 1 and section 3), trained through with a straight-through gradient. Rounding also destroys
information that an inversion needs; the codes travel packed, so that fewer bits are fewer bytes.
"""

from dataclasses import replace
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from clients.defences.base import Defence
from clients.defences.bounded_noise import measured_signal_to_noise_db
from clients.defences.wrapping import Wrapping, refuse_twice
from testbed.core.registries import DEFENCES
from testbed.core.registry import Options
from testbed.scenario.components import DefenceChoice, component
from testbed.wire.quantisation import quantise


class QuantisationOptions(Options):
    """How many bits, and of what."""

    bits: Literal[8, 4, 2] = Field(default=8, description="per feature")
    base: DefenceChoice = component(DEFENCES, "none", "the defence underneath")

    @model_validator(mode="after")
    def _once(self) -> Self:
        refuse_twice("quantisation", self.base)
        return self


class Quantisation(Wrapping):
    """Quantises what its base releases."""

    def __init__(self, options: QuantisationOptions) -> None:
        super().__init__(options.base)
        self.bits = options.bits
        self.wire = replace(self.base.wire, bits=options.bits)

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return the base's release, each feature rounded to one of 2^bits values."""
        return quantise(self.base.release(z, rng), self.bits)

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return the base's statistics; of its own where the base releases z itself."""
        if type(self.base).release is Defence.release:
            return {"quantisation_snr_db": measured_signal_to_noise_db(z, released)}
        return self.base.release_statistics(z, released)


@DEFENCES.register(
    "quantisation",
    "rounds what is sent to 8, 4 or 2 bits; on top of any other defence",
    QuantisationOptions,
    source="Jacob et al. 2018, arXiv 1712.05877, eq. 1",
)
def quantisation(options: QuantisationOptions) -> Defence:
    """Build the quantising defence."""
    return Quantisation(options)
