"""Kernel ridge regression from features to pixels: a nonlinear inverse in closed form.

x = mean + k(z)' (K + alpha I)^-1 X. The kernel is the inner product plus a Laplacian
exp(-|z - z'| / width) on features that are centred per element and of unit variance per channel.
Width and alpha are chosen on the attacker's validation images. It costs a fraction of a trained
decoder, and is stronger than the linear inverse if features depend nonlinearly on the image.

References
----------
Saunders, Gammerman, Vovk, Ridge regression learning algorithm in dual variables, ICML 1998.
"""

import math
from typing import Annotated, ClassVar

import numpy as np
from numpy.linalg import LinAlgError
from numpy.typing import NDArray
from pydantic import Field

from testbed.adversaries.base import Attack, Evidence, FloatArray, Reconstruction, Report
from testbed.adversaries.effort import Effort, products
from testbed.adversaries.mean_image import mean_of
from testbed.adversaries.released import ChannelNormaliser, ReleasedFeatures
from testbed.core.registries import ATTACKS
from testbed.core.registry import Options, Positive
from testbed.core.seeds import generator
from testbed.scenario.threat_model import ThreatModel

Matrix = NDArray[np.float32]


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
        default=2, description="draws per auxiliary image if releases are random, else one"
    )
    max_samples: Annotated[int, Field(ge=10, le=20_000)] = Field(
        default=3000, description="most training pairs; memory grows with their square"
    )


PROJECTIONS = 256
"""Random directions of the pixel space on which width and penalty are chosen.

Predictions are linear in the images, so projections keep squared errors in expectation, at a tenth
of the cost. The final fit uses all pixels.
"""


_FACTOR_MACS = 1 / 3
_EXPONENTIAL_MACS = 60
"""Of a Cholesky factorisation, per cubed size; of an exponential and the copies of a kernel, in
multiply-adds of a matrix product that take as long."""


class Kernel:
    """Inner products and distances to the training features, in units of those features.

    Parameters
    ----------
    training : normalised training features (N, d).
    """

    def __init__(self, training: Matrix) -> None:
        self._training = training
        self._squares = np.square(training).sum(axis=1)
        self._power = float(self._squares.mean()) or 1.0

    def parts(self, features: Matrix) -> tuple[Matrix, Matrix]:
        """Return inner products and Euclidean distances, both (M, N)."""
        return self._parts(features @ self._training.T, np.square(features).sum(axis=1))

    def among(self) -> tuple[Matrix, Matrix]:
        """Return those among the training features, (N, N), of use on and below the diagonal."""
        from scipy.linalg.blas import ssyrk  # slow to import

        # The upper triangle in the order of Fortran, which BLAS fills, is the lower one in C order.
        products: Matrix = ssyrk(1.0, self._training.T, trans=True).T
        found = self._parts(products, self._squares)
        np.fill_diagonal(found[1], 0.0)
        return found

    def _parts(self, products: Matrix, squares: Matrix) -> tuple[Matrix, Matrix]:
        distances: Matrix = products * np.float32(-2.0)
        distances += squares[:, None]
        distances += self._squares[None, :]
        np.sqrt(np.maximum(distances, 0.0, out=distances), out=distances)
        distances /= np.float32(math.sqrt(self._power))
        products /= np.float32(self._power)
        return products, distances


def combined(parts: tuple[Matrix, Matrix], width: float) -> Matrix:
    """Return the kernel of the given width from inner products and distances."""
    kernel: Matrix = parts[1] * np.float32(-1.0 / width)
    np.exp(kernel, out=kernel)
    kernel += parts[0]
    return kernel


def fit(kernel: Matrix, alpha: float, targets: Matrix) -> Matrix:
    """Return the weights (N, k) of the training samples for targets (N, k).

    Parameters
    ----------
    kernel : (N, N), read on and below the diagonal only.
    """
    from scipy.linalg import cho_factor, cho_solve  # slow to import

    regular = kernel.copy().T
    regular[np.diag_indices(len(kernel))] += np.float32(alpha)
    factor = cho_factor(regular, overwrite_a=True, check_finite=False)
    weights: Matrix = cho_solve(factor, targets, check_finite=False)
    return weights


@ATTACKS.register(
    "kernel_ridge",
    "kernel ridge regression from features to pixels, width and penalty by validation",
    KernelRidgeOptions,
)
class KernelRidge(Attack):
    """Closed-form nonlinear inverse."""

    options: KernelRidgeOptions
    threat = ThreatModel(queries=True)
    search_space: ClassVar = {"max_samples": (1000, 2000, 5000)}

    def mount(self, evidence: Evidence, seed: int, report: Report) -> Reconstruction:
        """Fit, choose width and penalty on the validation images, reconstruct."""
        released = ReleasedFeatures(evidence)
        images = released.auxiliary.images
        draws = self.options.releases_per_image if released.is_random else 1
        pairs = min(draws * len(images), self.options.max_samples)
        raw = np.concatenate([released.training(draw) for draw in range(draws)])[:pairs]
        mean = mean_of(released.auxiliary)
        residuals = _flat(images[np.arange(pairs) % len(images)] - mean)
        normalise = ChannelNormaliser.fit(raw, per_element=True)
        kernel = Kernel(_flat(normalise(raw)))
        among = kernel.among()
        is_flat = not np.tril(among[1]).any()
        held_out = kernel.parts(_flat(normalise(released.validation())))
        directions = generator(seed, "kernel_ridge projections").standard_normal(
            (residuals.shape[1], PROJECTIONS), dtype=np.float32
        )
        projected = residuals @ directions
        truth = _flat(released.auxiliary_validation.images - mean) @ directions
        # A tie (constant features) selects the strongest penalty.
        choices = []
        for width in self.options.widths:
            fitted, shown = combined(among, width), combined(held_out, width)
            for alpha in self.options.alphas:
                error = self._error(fitted, shown, alpha, projected, truth)
                choices.append((error, -alpha, width))
        _, negative, width = min(choices)
        alpha = -negative
        report(f"width {width:g}, penalty {alpha:g}")
        weights = fit(combined(among, width), alpha, residuals)

        def reconstruct(features: FloatArray) -> FloatArray:
            predicted = combined(kernel.parts(_flat(normalise(features))), width) @ weights
            if is_flat:  # constant features: differences are rounding errors
                predicted = np.zeros_like(predicted)
            restored = predicted.reshape(len(predicted), *mean.shape) + mean
            images: FloatArray = np.clip(restored, 0.0, 1.0).astype(np.float32)
            return images

        return Reconstruction(reconstruct(evidence.intercepts.features), again=reconstruct)

    def effort(self, evidence: Evidence, intercepts: int) -> list[Effort]:
        """Return the factorisations, solutions and kernels of every width and penalty."""
        released = ReleasedFeatures(evidence)
        draws = self.options.releases_per_image if released.is_random else 1
        n = min(draws * len(released.auxiliary.images), self.options.max_samples)
        d, k = evidence.intercepts.features[0].size, evidence.auxiliary.images[0].size
        validation, fits = len(released.auxiliary_validation.images), 1
        for choices in (self.options.widths, self.options.alphas):
            fits *= len(choices)
        factor = _FACTOR_MACS * n**3
        kernels = len(self.options.widths) * n * (n + validation) * _EXPONENTIAL_MACS
        each = factor + n * (n + validation) * PROJECTIONS
        products_of_features = (n / 2 + validation + intercepts) * n * d
        macs = fits * each + factor + kernels + products_of_features + n * (n + intercepts) * k
        return [released.effort(draws), products(macs, np.float32)]

    @staticmethod
    def _error(
        among: Matrix,
        held_out: Matrix,
        alpha: float,
        projected: Matrix,
        truth: Matrix,
    ) -> float:
        try:
            weights = fit(among, alpha, projected)
        except LinAlgError:
            # The kernel of features of few dimensions is positive definite in single precision
            # only if the penalty is larger than the rounding errors.
            return math.inf
        return float(np.square(held_out @ weights - truth).mean())


def _flat(array: NDArray[np.float32]) -> Matrix:
    return array.reshape(len(array), -1)
