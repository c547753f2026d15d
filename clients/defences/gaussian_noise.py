"""Gaussian noise on bounded features, the first defence tried on collaborative inference.

He, Zhang and Lee (ACSAC 2019; IEEE IoT Journal 8, 2021) report that their attacks survive it. The
mechanism z / max(1, |z| / C) + N(0, scale^2 I) is that of Abadi et al. 2016 (arXiv 1607.00133,
algorithm 1) applied to features instead of gradients. No differential privacy is claimed.
"""

from pydantic import Field

from clients.defences.noise import BoundedNoise, standard_normal
from testbed.core.registries import DEFENCES
from testbed.core.registry import Options, Positive


class GaussianNoiseOptions(Options):
    """Scale of the noise, and the bound of the features."""

    scale: Positive = Field(default=1.0, description="standard deviation of the noise")
    bound: Positive = Field(default=1.0, description="largest root mean square of an image's z")


@DEFENCES.register(
    "gaussian_noise",
    "Gaussian noise on features of bounded power",
    GaussianNoiseOptions,
    source="He et al. 2019 (ACSAC) and 2021; bound: Abadi et al. 2016, arXiv 1607.00133",
)
class GaussianNoise(BoundedNoise):
    """Adds N(0, scale^2) to every feature."""

    standard_noise = staticmethod(standard_normal)
