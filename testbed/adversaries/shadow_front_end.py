"""An attacker's own copy of a known front-end architecture, to be trained in place of the real one.

Shokri et al. (IEEE S&P 2017) call a model that imitates the victim's a shadow model.
"""

import numpy as np
import torch
from torch import Tensor, nn

from testbed.adversaries.base import FloatArray
from testbed.core import seeds
from testbed.core.registries import FRONT_ENDS
from testbed.scenario.components import Component


class ShadowFrontEnd(nn.Module):
    """A front-end with weights drawn by the attacker, on images in [0, 1].

    Parameters
    ----------
    images : auxiliary images (N, C, H, W); their statistics normalise the inputs.
    seed, purpose : the random stream of the initial weights.
    """

    def __init__(
        self, architecture: Component, images: FloatArray, seed: int, purpose: str
    ) -> None:
        super().__init__()
        draw = int(seeds.generator(seed, purpose).integers(2**31))
        with torch.random.fork_rng(devices=[]):  # layers draw from the global state
            torch.manual_seed(draw)
            self.layers = FRONT_ENDS.create(
                architecture.name, architecture.options, image_shape=images.shape[1:]
            )
        self.feature_shape: tuple[int, int, int] = self.layers.feature_shape
        self._mean = torch.from_numpy(images.mean(axis=(0, 2, 3), keepdims=True))
        deviation = np.maximum(images.std(axis=(0, 2, 3), keepdims=True), np.float32(1e-3))
        self._deviation = torch.from_numpy(deviation)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) in [0, 1] to features."""
        features: Tensor = self.layers((x - self._mean) / self._deviation)
        return features
