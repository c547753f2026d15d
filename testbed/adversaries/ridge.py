"""Ridge regression from normalised features to pixels: the strongest linear inverse.

x = mean + W (z - mean z), where W minimises the squared error plus alpha |W|^2. Alpha is chosen on
the attacker's validation images. There are usually more dimensions than samples; the dual form then
needs only an N x N eigendecomposition, and every alpha is a diagonal scaling.

References
----------
Saunders, Gammerman, Vovk, Ridge regression learning algorithm in dual variables, ICML 1998.
"""

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from testbed.adversaries.base import Attack, Evidence, FloatArray, Reconstruction, Report
from testbed.adversaries.effort import Effort, eigenvectors, products
from testbed.adversaries.mean_image import mean_of
from testbed.adversaries.released import ChannelNormaliser, ReleasedFeatures
from testbed.core.registries import ATTACKS
from testbed.core.registry import Options, Positive
from testbed.scenario.threat_model import ThreatModel

Matrix = NDArray[np.float64]


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

    def mount(self, evidence: Evidence, seed: int, report: Report) -> Reconstruction:
        """Fit, choose the penalty on the attacker's validation images, reconstruct."""
        released = ReleasedFeatures(evidence)
        draws = self.options.releases_per_image if released.is_random else 1
        auxiliary = released.auxiliary.images
        pairs = min(draws * len(auxiliary), self.options.max_samples)
        rows = np.arange(pairs) % len(auxiliary)
        starts = range(0, pairs, len(auxiliary))
        releases = [released.training(draw)[: pairs - start] for draw, start in enumerate(starts)]
        raw = np.concatenate(releases)
        images = auxiliary[rows]
        normalise = ChannelNormaliser.fit(raw, per_element=True)
        solution = RidgeRegression(_flat(normalise(raw)), _flat(images))
        held_out = solution.project(_flat(normalise(released.validation())))
        truth = _flat(released.auxiliary_validation.images)
        errors = [
            float(np.square(np.clip(solution.predict(held_out, alpha), 0, 1) - truth).mean())
            for alpha in self.options.alphas
        ]
        # A tie (constant features) selects the strongest penalty.
        error, negative = min(zip(errors, (-alpha for alpha in self.options.alphas), strict=True))
        report(f"penalty {-negative:g}, validation MSE {error:.5f}")
        shape = mean_of(evidence.auxiliary).shape

        def reconstruct(features: FloatArray) -> FloatArray:
            projected = solution.project(_flat(normalise(features)))
            predicted = np.clip(solution.predict(projected, -negative), 0.0, 1.0)
            images: FloatArray = predicted.reshape(len(features), *shape).astype(np.float32)
            return images

        return Reconstruction(reconstruct(evidence.intercepts.features), again=reconstruct)

    def effort(self, evidence: Evidence, intercepts: int) -> list[Effort]:
        """Return the eigendecomposition and the products of ``RidgeRegression``."""
        released = ReleasedFeatures(evidence)
        draws = self.options.releases_per_image if released.is_random else 1
        n = min(draws * len(released.auxiliary.images), self.options.max_samples)
        d, k = evidence.intercepts.features[0].size, evidence.auxiliary.images[0].size
        least, validation = min(n, d), len(released.auxiliary_validation.images)
        fit = 2 * n * d * least + least * n * k
        held_out = validation * least * (d + k * len(self.options.alphas))
        macs = fit + held_out + intercepts * least * (d + k)
        return [released.effort(draws), products(macs), eigenvectors(least)]


def _flat(array: NDArray[np.float32]) -> Matrix:
    return array.reshape(len(array), -1).astype(np.float64)


class RidgeRegression:
    """Ridge regression with an unpenalised intercept, all penalties from one eigendecomposition.

    Parameters
    ----------
    inputs, targets : (N, d) and (N, k) training pairs.
    """

    def __init__(self, inputs: Matrix, targets: Matrix) -> None:
        self._input_mean = inputs.mean(axis=0)
        self._target_mean = targets.mean(axis=0)
        centred, residual = inputs - self._input_mean, targets - self._target_mean
        samples, dimensions = centred.shape
        self._dual = samples < dimensions
        if self._dual:  # predict(z) = z Z' U (E + alpha)^-1 U' X with Z Z' = U E U'
            values, vectors = np.linalg.eigh(centred @ centred.T)
            self._basis: Matrix = centred.T @ vectors
            self._coefficients: Matrix = vectors.T @ residual
        else:  # predict(z) = z U (E + alpha)^-1 U' Z' X with Z' Z = U E U'
            values, self._basis = np.linalg.eigh(centred.T @ centred)
            self._coefficients = self._basis.T @ (centred.T @ residual)
        self._eigenvalues: Matrix = np.maximum(values, 0.0)
        mean_eigenvalue = float(self._eigenvalues.sum()) / samples
        self._unit = mean_eigenvalue if mean_eigenvalue > 0.0 else 1.0

    def project(self, inputs: Matrix) -> Matrix:
        """Return the coordinates of inputs (M, d), which do not depend on the penalty."""
        coordinates: Matrix = (inputs - self._input_mean) @ self._basis
        return coordinates

    def predict(self, coordinates: Matrix, alpha: float) -> Matrix:
        """Return predictions (M, k) for a penalty relative to the mean eigenvalue."""
        shrunk = coordinates / (self._eigenvalues + alpha * self._unit)
        predicted: Matrix = self._target_mean + shrunk @ self._coefficients
        return predicted
