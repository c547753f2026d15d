"""Ridge regression from normalised features to pixels: the strongest linear inverse.

x = mean + W (z - mean z), where W minimises the squared error plus alpha |W|^2. Alpha is chosen on
the attacker's validation images. There are usually more dimensions than samples; the dual form then
needs only an N x N eigendecomposition, and every alpha is a diagonal scaling.

References
----------
Saunders, Gammerman, Vovk, Ridge regression learning algorithm in dual variables, ICML 1998.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from testbed.adversaries.base import Attack, Evidence, FloatArray, Reconstruction, Report
from testbed.adversaries.effort import Effort, Sizes, eigenvectors, products
from testbed.adversaries.released import ChannelNormaliser, ReleasedFeatures, most_pairs
from testbed.core.registries import ATTACKS
from testbed.core.registry import Options, Positive
from testbed.scenario.threat_model import ThreatModel

Matrix = NDArray[np.float64]
Array = NDArray[np.float32] | Matrix
BLOCK = 512
"""Columns or rows of the inputs that are converted to double precision at once."""


class RidgeOptions(Options):
    """Options of the ridge attack."""

    alphas: list[Positive] = Field(
        default=[10.0**power for power in range(-8, 5)],
        min_length=1,
        description="penalties tried, relative to the mean eigenvalue of the covariance",
    )
    releases_per_image: Annotated[int, Field(ge=1, le=64)] = Field(
        default=4, description="draws per auxiliary image if releases are random, else one"
    )
    max_samples: Annotated[int, Field(ge=10, le=20_000)] = Field(
        default=2000, description="most training pairs; memory grows with their square"
    )


@ATTACKS.register(
    "ridge", "ridge regression from features to pixels, penalty by validation", RidgeOptions
)
class Ridge(Attack):
    """Closed-form linear inverse."""

    options: RidgeOptions
    threat = ThreatModel(queries=True)
    search_space: ClassVar = {"max_samples": (1000, 2000, 5000)}
    presets: ClassVar = {
        "fast": {"releases_per_image": 1},
        "thorough": {"releases_per_image": 16, "max_samples": 6000},
    }

    def mount(self, evidence: Evidence, seed: int, report: Report) -> Reconstruction:
        """Fit, choose the penalty on the attacker's validation images, reconstruct."""
        released = ReleasedFeatures(evidence)
        draws = self.options.releases_per_image if released.is_random else 1
        auxiliary = released.auxiliary.images
        features = math.prod(evidence.intercepts.features.shape[1:])
        pairs = min(draws * len(auxiliary), self._most(features))
        rows = np.arange(pairs) % len(auxiliary)
        starts = range(0, pairs, len(auxiliary))
        releases = [released.training(draw)[: pairs - start] for draw, start in enumerate(starts)]
        raw = np.concatenate(releases) if len(releases) > 1 else releases[0]
        inverse = LinearInverse(self.options.alphas, raw, auxiliary[rows], released)
        report(f"penalty {inverse.alpha:g}, validation MSE {inverse.error:.5f}")
        images = inverse(evidence.intercepts.features)
        return Reconstruction(images, again=inverse, validation_mse=inverse.error)

    def effort(self, evidence: Evidence, intercepts: int) -> list[Effort]:
        """Return the eigendecomposition and the products of ``RidgeRegression``."""
        released = ReleasedFeatures(evidence)
        draws = self.options.releases_per_image if released.is_random else 1
        d, k = evidence.intercepts.features[0].size, evidence.auxiliary.images[0].size
        n = min(draws * len(released.auxiliary.images), self._most(d))
        least, validation = min(n, d), len(released.auxiliary_validation.images)
        fit = n * d * least / 2 + least * n * k
        projected = least * (d + least)
        held_out = validation * (projected + least * k * len(self.options.alphas))
        macs = fit + held_out + intercepts * (projected + least * k)
        return [released.effort(draws), products(macs), eigenvectors(least)]

    def memory_bytes(self, sizes: Sizes) -> int:
        """Return the bytes of the features, of the squared matrices and of their products."""
        draws = self.options.releases_per_image if sizes.is_random else 1
        n = min(draws * sizes.auxiliary, self._most(sizes.features))
        copies = 3 * n if sizes.is_random else sizes.auxiliary + n
        shown = 2 * (sizes.validation + sizes.intercepts)
        least = min(n, sizes.features)
        return 4 * sizes.features * (copies + shown) + 8 * least * (4 * least + 3 * sizes.pixels)

    def _most(self, features: int) -> int:
        """Return how many training pairs it takes at most: as released, joined and normalised."""
        return most_pairs(self.options.max_samples, features, 3)


class LinearInverse:
    """Linear inverse of released features, with the penalty of the least validation error.

    Parameters
    ----------
    alphas : penalties tried.
    raw, images : training pairs.
    released : has the validation images and their features.

    Attributes
    ----------
    alpha, error : the penalty, and its mean squared error on the validation images.
    """

    def __init__(
        self,
        alphas: Sequence[float],
        raw: FloatArray,
        images: FloatArray,
        released: ReleasedFeatures,
    ) -> None:
        self._shape = images.shape[1:]
        self._normalise = ChannelNormaliser.fit(raw, per_element=True)
        self._solution = RidgeRegression(_flat(self._normalise(raw)), _flat(images))
        held_out = self._solution.project(_flat(self._normalise(released.validation())))
        truth = _flat(released.auxiliary_validation.images).astype(np.float64)
        errors = [
            float(np.square(np.clip(self._solution.predict(held_out, alpha), 0, 1) - truth).mean())
            for alpha in alphas
        ]
        # A tie (constant features) selects the strongest penalty.
        self.error, negative = min(zip(errors, (-alpha for alpha in alphas), strict=True))
        self.alpha = -negative

    def __call__(self, features: FloatArray) -> FloatArray:
        """Return images (N, C, H, W) in [0, 1] of features (N, C', H', W')."""
        projected = self._solution.project(_flat(self._normalise(features)))
        predicted = np.clip(self._solution.predict(projected, self.alpha), 0.0, 1.0)
        images: FloatArray = predicted.reshape(len(features), *self._shape).astype(np.float32)
        return images


def _flat(array: FloatArray) -> FloatArray:
    return array.reshape(len(array), -1)


class RidgeRegression:
    """Ridge regression with an unpenalised intercept, all penalties from one eigendecomposition.

    Products of the inputs are double precision, as small penalties need it; the inputs become so
    block by block.

    Parameters
    ----------
    inputs, targets : (N, d) and (N, k) training pairs.
    """

    def __init__(self, inputs: Array, targets: Array) -> None:
        self._inputs = inputs
        self._input_mean = inputs.mean(axis=0, dtype=np.float64)
        self._target_mean = targets.mean(axis=0, dtype=np.float64)
        residual = targets - self._target_mean
        samples, dimensions = inputs.shape
        self._dual = samples < dimensions
        values, self._vectors = np.linalg.eigh(self._gram())  # of the lower triangle
        if self._dual:  # predict(z) = z Z' U (E + alpha)^-1 U' X with Z Z' = U E U'
            products = residual
        else:  # predict(z) = z U (E + alpha)^-1 U' Z' X with Z' Z = U E U'
            products = sum(part.T @ residual[rows] for rows, part in self._centred(inputs))
        self._coefficients: Matrix = self._vectors.T @ products
        self._eigenvalues: Matrix = np.maximum(values, 0.0)
        mean_eigenvalue = float(self._eigenvalues.sum()) / samples
        self._unit = mean_eigenvalue if mean_eigenvalue > 0.0 else 1.0

    def _centred(self, inputs: Array) -> Iterator[tuple[slice, Matrix]]:
        """Yield blocks of centred inputs in double precision: of columns (dual), else of rows."""
        for start in range(0, inputs.shape[1 if self._dual else 0], BLOCK):
            part = slice(start, start + BLOCK)
            if self._dual:
                yield part, inputs[:, part] - self._input_mean[part]
            else:
                yield part, inputs[part] - self._input_mean

    def _gram(self) -> Matrix:
        """Return Z Z' (dual) or Z' Z, of which only the lower triangle is filled."""
        from scipy.linalg.blas import dsyrk  # slow to import

        size = self._inputs.shape[0 if self._dual else 1]
        gram: Matrix = np.zeros((size, size), order="F")
        for _, part in self._centred(self._inputs):
            # The transpose of an array in C order is one in the order of Fortran, without a copy.
            gram = dsyrk(
                1.0, part.T, beta=1.0, c=gram, trans=self._dual, lower=True, overwrite_c=True
            )
        return gram

    def project(self, inputs: Array) -> Matrix:
        """Return the coordinates of inputs (M, d), which do not depend on the penalty."""
        coordinates: Matrix
        if not self._dual:
            coordinates = (inputs - self._input_mean) @ self._vectors
            return coordinates
        products = np.zeros((len(inputs), len(self._inputs)))
        own = self._centred(self._inputs)
        for (_, part), (_, other) in zip(self._centred(inputs), own, strict=True):
            products += part @ other.T
        coordinates = products @ self._vectors
        return coordinates

    def predict(self, coordinates: Matrix, alpha: float) -> Matrix:
        """Return predictions (M, k) for a penalty relative to the mean eigenvalue."""
        shrunk = coordinates / (self._eigenvalues + alpha * self._unit)
        predicted: Matrix = self._target_mean + shrunk @ self._coefficients
        return predicted
