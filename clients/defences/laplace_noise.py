"""Laplace noise on bounded features (Titcombe et al. 2021, arXiv 2104.05743).

Density exp(-|n| / scale) / (2 scale), hence a variance of 2 scale^2 (Dwork and Roth 2014, def.
3.2). Added to features of bounded power; no differential privacy is claimed.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from clients.defences.base import Defence
from clients.defences.bounded_noise import BoundedNoise
from testbed.core.registries import DEFENCES
from testbed.core.registry import Options

Positive = Annotated[float, Field(gt=0.0)]


class LaplaceNoiseOptions(Options):
    """Strength of the noise against the bound of the features."""

    scale: Positive = Field(
        default=0.7, description="scale of the noise; its standard deviation is sqrt(2) as much"
    )
    bound: Positive = Field(default=1.0, description="largest root mean square of an image's z")


class LaplaceNoise(BoundedNoise):
    """Adds Laplace(0, scale) to every feature."""

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on each feature."""
        return float(2.0**0.5 * self.scale)

    def standard_noise(self, shape: torch.Size, rng: torch.Generator) -> Tensor:
        """Draw from Laplace(0, 1), the difference of two exponentials; never infinite."""
        first = torch.empty(shape, device=rng.device).exponential_(generator=rng)
        second = torch.empty(shape, device=rng.device).exponential_(generator=rng)
        return first - second


@DEFENCES.register(
    "laplace_noise",
    "Laplace noise on features of bounded power",
    LaplaceNoiseOptions,
    source="Titcombe et al. 2021, arXiv 2104.05743",
)
def laplace_noise(options: LaplaceNoiseOptions) -> Defence:
    """Build the defence that adds Laplace noise."""
    return LaplaceNoise(options.bound, options.scale)
