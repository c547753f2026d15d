"""Evidence on small smooth images, with front-ends of known privacy."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from testbed.adversaries.base import Evidence, Intercepts, LabelledImages

SIZE = 16
CLASSES = 3


class FunctionOracle:
    """A front-end given by a differentiable function of (images, generator)."""

    def __init__(self, function: Callable[[Tensor, torch.Generator], Tensor]) -> None:
        self.function = function
        self.queries: list[tuple[int, int]] = []

    def differentiable_query(self, x: Tensor, draw: int) -> Tensor:
        return self.function(x, torch.Generator().manual_seed(draw))

    def query(self, images, draw):
        self.queries.append((len(images), draw))
        with torch.no_grad():
            return self.differentiable_query(torch.from_numpy(images.copy()), draw).numpy()


def smooth_images(count, channels=1, seed=0, size=SIZE):
    """Return random images in [0, 1] with detail no finer than a quarter of the size."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 5, 5, generator=rng)
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    return fine.clamp(0, 1).numpy()


@dataclass
class Case:
    """Evidence, and the true images."""

    evidence: Evidence
    victims: np.ndarray
    oracle: FunctionOracle

    @property
    def mean_image_mse(self):
        return float(((self.evidence.auxiliary.images.mean(axis=0) - self.victims) ** 2).mean())

    def mse(self, reconstruction):
        return float(((reconstruction.images - self.victims) ** 2).mean())


def make_case(function, channels=1, auxiliary=48, victims=8, size=SIZE):
    """Build the evidence of an attacker on the front-end ``function``; all arrays read-only."""
    images = smooth_images(auxiliary + 16 + victims, channels, size=size)
    labels = np.arange(len(images), dtype=np.int64) % CLASSES
    oracle = FunctionOracle(function)
    ends = (auxiliary, auxiliary + 16)
    truth = images[ends[1] :]
    intercepted = oracle.query(truth, 10_000)
    oracle.queries.clear()
    parts = [
        LabelledImages(images[: ends[0]], labels[: ends[0]]),
        LabelledImages(images[ends[0] : ends[1]], labels[ends[0] : ends[1]]),
    ]
    intercepts = Intercepts(intercepted, labels[ends[1] :].copy())
    for part in (*parts, intercepts):
        for array in vars(part).values():
            array.setflags(write=False)
    return Case(Evidence(CLASSES, *parts, intercepts, oracle), truth, oracle)


def identity(x, rng):
    return x.clone()


def pooled(x, rng):
    return torch.nn.functional.avg_pool2d(torch.cat([x, x.square()], dim=1), 4)


def noisy(x, rng):
    return pooled(x, rng) + 0.05 * torch.randn(len(x), 2 * x.shape[1], 4, 4, generator=rng)


def constant(x, rng):
    """Features that vary over space but not with the image; gradients flow and are zero."""
    pattern = torch.linspace(-1.0, 3.0, 4 * 8 * 8).reshape(1, 4, 8, 8)
    return pattern + 0.0 * x.mean(dim=(1, 2, 3), keepdim=True)


@pytest.fixture
def front_ends():
    return {"identity": identity, "pooled": pooled, "noisy": noisy, "constant": constant}


@pytest.fixture
def draw_images():
    return smooth_images


@pytest.fixture
def build_case():
    return make_case
