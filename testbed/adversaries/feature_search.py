"""Searches images whose features match given ones, by projected Adam through known weights."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from testbed.adversaries.base import FloatArray, WhiteBoxOracle
from testbed.adversaries.released import ChannelNormaliser

_CHUNK = 8  # images searched together; they and their activations stay in the cache
_FIRST_DRAW = 1_000_000  # apart from the draws that training queries use
_DISTANCE_DRAWS = 8


def total_variation(x: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels of each image, (N,)."""
    rows = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(dim=(1, 2, 3))
    columns = (x[:, :, :, 1:] - x[:, :, :, :-1]).abs().mean(dim=(1, 2, 3))
    return rows + columns


class FeatureDistance:
    """Mean squared distance of normalised features, one value per image.

    Parameters
    ----------
    oracle : the deployed front-end, with gradients.
    normalise : statistics of the auxiliary features; dead channels weigh nothing.
    is_random : whether releases differ from draw to draw; a fresh one is then used at every step.
    """

    def __init__(
        self, oracle: WhiteBoxOracle, normalise: ChannelNormaliser, is_random: bool
    ) -> None:
        self._oracle = oracle
        self._normalise = normalise
        self._centre = torch.from_numpy(normalise.centre)
        self._scale = torch.from_numpy(normalise.scale)
        self._is_random = is_random

    @property
    def is_flat(self) -> bool:
        """Whether every channel is dead: features say nothing, and there is nothing to search."""
        return not self._normalise.scale.any()

    def target(self, features: FloatArray) -> Tensor:
        """Normalise intercepted features."""
        return torch.from_numpy(self._normalise(features))

    def __call__(self, x: Tensor, target: Tensor, step: int) -> Tensor:
        """Return the distances (N,) of images ``x`` at a step; differentiable."""
        draw = _FIRST_DRAW + (step if self._is_random else 0)
        features = self._oracle.differentiable_query(x, draw)
        return ((features - self._centre) * self._scale - target).square().mean(dim=(1, 2, 3))

    @torch.no_grad()
    def expected(self, images: FloatArray, features: FloatArray) -> FloatArray:
        """Return distances (N,) averaged over a few draws, to choose between restarts."""
        draws = range(_DISTANCE_DRAWS if self._is_random else 1)
        values = np.empty(len(images), dtype=np.float32)
        for part in chunks(len(images)):
            x, target = torch.from_numpy(images[part]), self.target(features[part])
            found = [self(x, target, -1 - draw) for draw in draws]
            values[part] = torch.stack(found).mean(dim=0).numpy()
        return values


def chunks(count: int) -> Iterator[slice]:
    """Yield the slices of images that are searched together."""
    for start in range(0, count, _CHUNK):
        yield slice(start, min(start + _CHUNK, count))


@dataclass(frozen=True)
class Descent:
    """Projected Adam with a cosine-decayed rate.

    Attributes
    ----------
    steps : length of the decay.
    learning_rate : of the first step, in units of the pixels' range.
    """

    steps: int
    learning_rate: float

    def run(
        self,
        distance: FeatureDistance,
        start: FloatArray,
        features: FloatArray,
        tv_weight: float,
        stops: list[int],
    ) -> list[FloatArray]:
        """Return the images at each of the ``stops``, ascending step numbers (0 is the start)."""
        found = [np.empty_like(start) for _ in stops]
        for part in chunks(len(start)):
            target = distance.target(features[part])
            x = torch.from_numpy(start[part].copy()).requires_grad_()
            optimiser = torch.optim.Adam([x], self.learning_rate, betas=(0.9, 0.99), eps=1e-12)
            for step in range(max(stops) + 1):
                if step in stops:
                    found[stops.index(step)][part] = x.detach().numpy()
                if step == max(stops):
                    break
                # A sum over images: each has its own gradient, whoever shares its chunk.
                loss = distance(x, target, step).sum()
                if tv_weight > 0.0:
                    loss = loss + tv_weight * total_variation(x).sum()
                (x.grad,) = torch.autograd.grad(loss, x)
                for group in optimiser.param_groups:
                    decay = 0.5 * (1.0 + np.cos(np.pi * step / self.steps))
                    group["lr"] = self.learning_rate * decay
                optimiser.step()
                with torch.no_grad():
                    x.clamp_(0.0, 1.0)
        return found
