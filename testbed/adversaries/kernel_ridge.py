"""Kernel ridge regression from features to pixels: a nonlinear inverse in closed form.

x = mean + k(z)' (K + alpha I)^-1 X with the Laplacian kernel exp(-|z - z'| / width) on features
that are centred per element and of unit variance per channel. Width and alpha are chosen on the
attacker's validation images. It is a fraction of a trained decoder's work, and stronger
than the linear inverse where little but a nonlinear code of the image is left.

References
----------
Saunders, Gammerman, Vovk, Ridge regression learning algorithm in dual variables, ICML 1998.
"""

from collections.abc import Callable
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.linalg import cho_factor, cho_solve

from testbed.adversaries.base import Evidence, Reconstruction
from testbed.adversaries.mean_image import mean_of
from testbed.adversaries.released import ChannelNormaliser, ReleasedFeatures
from testbed.core.registries import ATTACKS
from testbed.core.registry import Options

Matrix = NDArray[np.float32]
Positive = Annotated[float, Field(gt=0.0)]


class KernelRidgeOptions(Options):
    """Options of the kernel ridge attack."""

    widths: list[Positive] = Field(
        default=[0.5, 2.0, 8.0],
        min_length=1,
        description="kernel widths tried, relative to the median distance of the features",
    )
    alphas: list[Positive] = Field(
        default=[0.003, 0.03, 0.3, 3.0, 30.0], min_length=1, description="penalties tried"
    )
    releases_per_image: Annotated[int, Field(ge=1, le=64)] = Field(
        default=2, description="draws per auxiliary image when releases are random, else one"
    )
    max_samples: Annotated[int, Field(ge=10, le=20_000)] = Field(
        default=4000, description="training pairs used at most; memory grows with the square"
    )


def distances(left: Matrix, right: Matrix) -> Matrix:
    """Return the Euclidean distances (N, M) between rows of (N, d) and (M, d)."""
    squares = (
        np.square(left).sum(axis=1)[:, None]
        + np.square(right).sum(axis=1)[None, :]
        - 2.0 * (left @ right.T)
    )
    found: Matrix = np.sqrt(np.maximum(squares, 0.0))
    return found


@ATTACKS.register(
    "kernel_ridge",
    "kernel ridge regression from features to pixels, width and penalty by validation",
    KernelRidgeOptions,
)
class KernelRidge:
    """Closed-form nonlinear inverse."""

    is_anchor = False
    needs_oracle = True
    threat_model = "auxiliary images and queries to the deployed front-end"

    def __init__(self, options: KernelRidgeOptions) -> None:
        self.options = options

    def mount(
        self, evidence: Evidence, seed: int, progress: Callable[[str], None] | None = None
    ) -> Reconstruction:
        """Fit, choose width and penalty on the validation images, reconstruct."""
        released = ReleasedFeatures(evidence, "kernel_ridge")
        images = evidence.auxiliary.images
        draws = self.options.releases_per_image if released.is_random else 1
        pairs = min(draws * len(images), self.options.max_samples)
        raw = np.concatenate([released.training(draw) for draw in range(draws)])[:pairs]
        mean = mean_of(evidence.auxiliary)
        residuals = _flat(images[np.arange(pairs) % len(images)] - mean)
        normalise = ChannelNormaliser.fit(raw, per_element=True)
        own = _flat(normalise(raw))
        among = distances(own, own)
        np.fill_diagonal(among, 0.0)
        unit = float(np.median(among)) or 1.0
        to_validation = distances(_flat(normalise(released.validation())), own)
        truth = _flat(evidence.auxiliary_validation.images - mean)
        best = (float(np.square(truth).mean()), 1.0, np.zeros_like(residuals))
        for width in self.options.widths:
            scale = -1.0 / (width * unit)
            kernel, held_out = np.exp(scale * among), np.exp(scale * to_validation)
            for alpha in self.options.alphas:
                regular = kernel.copy()
                regular[np.diag_indices(pairs)] += alpha
                factor = cho_factor(regular, overwrite_a=True, check_finite=False)
                weights = cho_solve(factor, residuals, check_finite=False)
                error = float(np.square(held_out @ weights - truth).mean())
                if error < best[0]:
                    best = (error, scale, weights)
        if progress is not None:
            progress(f"width {-1.0 / (best[1] * unit):g}, validation MSE {best[0]:.5f}")
        victims = distances(_flat(normalise(evidence.intercepts.features)), own)
        predicted = (np.exp(best[1] * victims) @ best[2]).reshape(len(victims), *mean.shape) + mean
        return Reconstruction(np.clip(predicted, 0.0, 1.0).astype(np.float32))


def _flat(array: NDArray[np.float32]) -> Matrix:
    return array.reshape(len(array), -1)
