"""Gaussian noise on bounded features, the defence first tried on collaborative inference.

He, Zhang and Lee (ACSAC 2019; IEEE IoT Journal 8, 2021) report that their attacks survive it. The
mechanism z / max(1, |z| / C) + N(0, scale^2 I) is that of Abadi et al. 2016 (arXiv 1607.00133,
algorithm 1) applied to features instead of gradients. No differential privacy is claimed.
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


class GaussianNoiseOptions(Options):
    """Strength of the noise against the bound of the features."""

    scale: Positive = Field(default=1.0, description="standard deviation of the noise")
    bound: Positive = Field(default=1.0, description="largest root mean square of an image's z")


class GaussianNoise(BoundedNoise):
    """Adds N(0, scale^2) to every feature."""

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on each feature."""
        return self.scale

    def standard_noise(self, shape: torch.Size, rng: torch.Generator) -> Tensor:
        """Draw from N(0, 1)."""
        return torch.randn(shape, generator=rng, device=rng.device)


@DEFENCES.register(
    "gaussian_noise",
    "Gaussian noise on features of bounded power",
    GaussianNoiseOptions,
    source="He et al. 2019 (ACSAC) and 2021; bound: Abadi et al. 2016, arXiv 1607.00133",
)
def gaussian_noise(options: GaussianNoiseOptions) -> Defence:
    """Build the defence that adds Gaussian noise."""
    return GaussianNoise(options.bound, options.scale)
