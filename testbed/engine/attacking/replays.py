"""Means over several releases of the same image, which an active adversary can ask for."""

from collections.abc import Sequence

import numpy as np

from clients.deployed import CHUNK, DeployedFrontEnd
from testbed.adversaries.base import FloatArray
from testbed.core.seeds import torch_generator


def released_mean(
    deployed: DeployedFrontEnd, images: FloatArray, draws: Sequence[int]
) -> FloatArray:
    """Return the mean over ``draws`` of what is released for images in [0, 1]."""
    total: FloatArray = np.zeros(0, dtype=np.float32)
    for index, draw in enumerate(draws):
        features = deployed.query(images, draw)
        total = features if index == 0 else total + features
    mean: FloatArray = total / np.float32(len(draws))
    return mean


def averaged_intercepts(
    deployed: DeployedFrontEnd, images: FloatArray, intercepted: FloatArray, replays: int
) -> FloatArray:
    """Return the mean of what was intercepted and ``replays - 1`` further releases.

    Parameters
    ----------
    images : the victims' images, in the order of the intercepts; known on this side only.
    intercepted : features of one release each, (N, C, H, W).
    """
    runner = deployed.runner
    total = intercepted.astype(np.float64)
    for replay in range(1, replays):
        rng = torch_generator(deployed.device_spec.seed, "replayed release", replay)
        for start in range(0, len(images), CHUNK):
            part = slice(start, start + CHUNK)
            total[part] += runner.released_array(images[part], rng)
    mean: FloatArray = (total / replays).astype(np.float32)
    return mean
