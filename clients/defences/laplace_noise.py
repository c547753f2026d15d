"""Laplace noise on bounded features (Titcombe et al. 2021, arXiv 2104.05743).

Density exp(-|n| / scale) / (2 scale), hence a variance of 2 scale^2 (Dwork and Roth 2014, def.
3.2). Added to features of bounded power; no differential privacy is claimed.
"""

from pydantic import Field

from clients.defences.noise import BoundedNoise, standard_laplace
from testbed.core.registries import DEFENCES
from testbed.core.registry import Options, Positive


class LaplaceNoiseOptions(Options):
    """Scale of the noise, and the bound of the features."""

    scale: Positive = Field(
        default=0.7, description="scale of the noise; its standard deviation is sqrt(2) times this"
    )
    bound: Positive = Field(default=1.0, description="largest root mean square of an image's z")


@DEFENCES.register(
    "laplace_noise",
    "Laplace noise on features of bounded power",
    LaplaceNoiseOptions,
    source="Titcombe et al. 2021, arXiv 2104.05743",
)
class LaplaceNoise(BoundedNoise):
    """Adds Laplace(0, scale) to every feature."""

    standard_deviation = 2.0**0.5

    standard_noise = staticmethod(standard_laplace)
