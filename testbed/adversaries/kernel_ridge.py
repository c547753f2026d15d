"""Kernel ridge regression from features to pixels: a nonlinear inverse in closed form.

x = mean + k(z)' (K + alpha I)^-1 X, the kernel being the inner product plus a Laplacian
exp(-|z - z'| / width) on features that are centred per element and of unit variance per channel.
Width and alpha are chosen on the attacker's validation images. It takes a fraction of a trained
decoder's work, and goes beyond the linear inverse where a nonlinear code of the image is left.

References
----------
Saunders, Gammerman, Vovk, Ridge regression learning algorithm in dual variables, ICML 1998.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.linalg import LinAlgError
from numpy.typing import NDArray
from pydantic import Field
from scipy.linalg import cho_factor, cho_solve

from testbed.adversaries.base import Evidence, FloatArray, Reconstruction
from testbed.adversaries.mean_image import mean_of
from testbed.adversaries.released import ChannelNormaliser, ReleasedFeatures
from testbed.core.registries import ATTACKS
from testbed.core.registry import Options
from testbed.core.seeds import generator
from testbed.scenario.threat_model import ThreatModel

Matrix = NDArray[np.float32]
Positive = Annotated[float, Field(gt=0.0)]


class KernelRidgeOptions(Options):
    """Options of the kernel ridge attack."""

    widths: list[Positive] = Field(
        default=[0.5, 2.0, 8.0],
        min_length=1,
        description="kernel widths tried, for features of mean square norm 1",
    )
    alphas: list[Positive] = Field(
        default=[10.0**power for power in range(-4, 3)],
        min_length=1,
        description="penalties tried, for features of mean square norm 1",
    )
    releases_per_image: Annotated[int, Field(ge=1, le=64)] = Field(
        default=2, description="draws per auxiliary image when releases are random, else one"
    )
    max_samples: Annotated[int, Field(ge=10, le=20_000)] = Field(
        default=3000, description="training pairs used at most; memory grows with the square"
    )


PROJECTIONS = 256
"""Random directions in the space of pixels that width and penalty are chosen on.

Predictions are linear in the images, so squared errors are kept in expectation at a tenth of the
work; the final fit is on all pixels.
"""


class Kernel:
    """Inner products and distances to the training features, in units of those features.

    Parameters
    ----------
    own : normalised training features (N, d).
    """

    def __init__(self, own: Matrix) -> None:
        self._own = own
        self._squares = np.square(own).sum(axis=1)
        self._power = float(self._squares.mean()) or 1.0

    def parts(self, features: Matrix) -> tuple[Matrix, Matrix]:
        """Return inner products and Euclidean distances, both (M, N)."""
        products = features @ self._own.T
        squares = np.square(features).sum(axis=1)[:, None] + self._squares[None, :]
        apart = np.sqrt(np.maximum(squares - 2.0 * products, 0.0))
        return products / self._power, apart / np.float32(math.sqrt(self._power))


def combined(parts: tuple[Matrix, Matrix], width: float) -> Matrix:
    """Return the kernel of the given width from inner products and distances."""
    kernel: Matrix = parts[0] + np.exp(parts[1] * np.float32(-1.0 / width))
    return kernel


def fit(kernel: Matrix, alpha: float, targets: Matrix) -> Matrix:
    """Return the weights (N, k) of the training samples for targets (N, k)."""
    regular = kernel.copy()
    regular[np.diag_indices(len(kernel))] += np.float32(alpha)
    factor = cho_factor(regular, overwrite_a=True, check_finite=False)
    weights: Matrix = cho_solve(factor, targets, check_finite=False)
    return weights


@ATTACKS.register(
    "kernel_ridge",
    "kernel ridge regression from features to pixels, width and penalty by validation",
    KernelRidgeOptions,
)
class KernelRidge:
    """Closed-form nonlinear inverse."""

    is_anchor = False
    rebuilds_images = True
    threat = ThreatModel(queries=True)
    search_space: ClassVar[Mapping[str, Sequence[Any]]] = {"max_samples": (1000, 2000, 5000)}

    def __init__(self, options: KernelRidgeOptions) -> None:
        self.options = options

    def mount(
        self, evidence: Evidence, seed: int, progress: Callable[[str], None] | None = None
    ) -> Reconstruction:
        """Fit, choose width and penalty on the validation images, reconstruct."""
        released = ReleasedFeatures(evidence, "kernel_ridge")
        images = released.auxiliary.images
        draws = self.options.releases_per_image if released.is_random else 1
        pairs = min(draws * len(images), self.options.max_samples)
        raw = np.concatenate([released.training(draw) for draw in range(draws)])[:pairs]
        mean = mean_of(released.auxiliary)
        residuals = _flat(images[np.arange(pairs) % len(images)] - mean)
        normalise = ChannelNormaliser.fit(raw, per_element=True)
        kernel = Kernel(_flat(normalise(raw)))
        among = kernel.parts(_flat(normalise(raw)))
        np.fill_diagonal(among[1], 0.0)
        held_out = kernel.parts(_flat(normalise(released.validation())))
        directions = generator(seed, "kernel_ridge projections").standard_normal(
            (residuals.shape[1], PROJECTIONS), dtype=np.float32
        )
        shown = residuals @ directions
        truth = _flat(released.auxiliary_validation.images - mean) @ directions
        # Ties (constant features) go to the strongest penalty.
        _, negative, width = min(
            (self._error(among, held_out, width, alpha, shown, truth), -alpha, width)
            for width in self.options.widths
            for alpha in self.options.alphas
        )
        alpha = -negative
        if progress is not None:
            progress(f"width {width:g}, penalty {alpha:g}")
        weights = fit(combined(among, width), alpha, residuals)

        def reconstruct(features: FloatArray) -> FloatArray:
            predicted = combined(kernel.parts(_flat(normalise(features))), width) @ weights
            if not among[1].any():  # features that never differ: what is left is rounding
                predicted = np.zeros_like(predicted)
            restored = predicted.reshape(len(predicted), *mean.shape) + mean
            images: FloatArray = np.clip(restored, 0.0, 1.0).astype(np.float32)
            return images

        return Reconstruction(reconstruct(evidence.intercepts.features), again=reconstruct)

    @staticmethod
    def _error(
        among: tuple[Matrix, Matrix],
        held_out: tuple[Matrix, Matrix],
        width: float,
        alpha: float,
        shown: Matrix,
        truth: Matrix,
    ) -> float:
        try:
            weights = fit(combined(among, width), alpha, shown)
        except LinAlgError:
            # Features of few dimensions: in single precision their kernel is not positive definite
            # until the penalty is larger than its rounding.
            return math.inf
        return float(np.square(combined(held_out, width) @ weights - truth).mean())


def _flat(array: NDArray[np.float32]) -> Matrix:
    return array.reshape(len(array), -1)
