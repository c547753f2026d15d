"""The work of an attack before it runs: a step that it repeats, and how often; and its memory.

The dry run times one step of each kind on this machine. It knows nothing else about attacks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

_SIDE = 256  # of the matrices that are timed


@dataclass(frozen=True)
class Effort:
    """Steps of one kind.

    Attributes
    ----------
    times : expected number of steps.
    what : names the step; steps of the same name take the same time.
    step : does the step once.
    of_arm : whether the step's time depends on the arm's front-end and defence.
    images : that the step queries.
    """

    times: float
    what: str
    step: Callable[[], object]
    of_arm: bool = False
    images: int = 0


@dataclass(frozen=True)
class Sizes:
    """What an attack will work on.

    Attributes
    ----------
    auxiliary, validation, intercepts : numbers of images.
    features, pixels : numbers in an image's features, and in an image.
    is_random : whether releases are random.
    """

    auxiliary: int
    validation: int
    intercepts: int
    features: int
    pixels: int
    is_random: bool


def products(multiply_adds: float, dtype: DTypeLike = np.float64) -> Effort:
    """Return matrix products of a number of multiply-adds, in parts of one size."""
    a = np.ones((_SIDE, _SIDE), dtype)
    return Effort(multiply_adds / _SIDE**3, f"matrix product, {np.dtype(dtype)}", lambda: a @ a)


def eigenvectors(size: int) -> Effort:
    """Return an eigendecomposition of a symmetric matrix (size, size), cubic in its size."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((_SIDE, _SIDE))
    gram = points @ points.T
    return Effort((size / _SIDE) ** 3, "eigenvectors", lambda: np.linalg.eigh(gram))
