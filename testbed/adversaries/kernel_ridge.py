"""Kernel ridge regression from features to pixels: a nonlinear inverse in closed form.

x = mean + k(z)' (K + alpha I)^-1 X. The kernel is the inner product plus a Laplacian
exp(-|z - z'| / width) on features that are centred per element and of unit variance per channel.
Width and alpha are chosen on the attacker's validation images, and so is the number of variations
of each image that are queried beside it; several fits with other variations are then averaged. It
costs a fraction of a trained decoder, and is stronger than the linear inverse if features depend
nonlinearly on the image. Where the linear inverse is better on the validation images, it is used.

References
----------
Saunders, Gammerman, Vovk, Ridge regression learning algorithm in dual variables, ICML 1998.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar

import numpy as np
from numpy.linalg import LinAlgError
from numpy.typing import NDArray
from pydantic import Field

from testbed.adversaries import augmentation
from testbed.adversaries.base import Attack, Evidence, FloatArray, Reconstruction, Report
from testbed.adversaries.effort import Effort, Sizes, eigenvectors, products
from testbed.adversaries.mean_image import mean_of
from testbed.adversaries.released import ChannelNormaliser, ReleasedFeatures, most_pairs
from testbed.adversaries.ridge import LinearInverse, RidgeOptions
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
        default=[10.0**power for power in range(-6, 3)],
        min_length=1,
        description="penalties tried, for features of mean square norm 1",
    )
    releases_per_image: Annotated[int, Field(ge=1, le=64)] = Field(
        default=2, description="draws per auxiliary image if releases are random, else one"
    )
    variations: list[Annotated[int, Field(ge=0, le=100)]] = Field(
        default=[0, 4],
        min_length=1,
        description="numbers of slightly moved and re-exposed variations of each image that are "
        "queried too; as far as max_samples and the limit of queries allow",
    )
    fits: Annotated[int, Field(ge=1, le=100)] = Field(
        default=3, description="inverses with different variations that are averaged"
    )
    max_samples: Annotated[int, Field(ge=10, le=20_000)] = Field(
        default=3000, description="most training pairs; memory grows with their square"
    )


PROJECTIONS = 256
"""Random directions of the pixel space on which width and penalty are chosen.

Predictions are linear in the images, so projections keep squared errors in expectation, at a tenth
of the cost. The final fit uses all pixels.
"""


_BLOCK = 64  # rows whose squares are in memory at once
_MOST_PENALTIES = 8
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
        blocks = range(0, len(training), _BLOCK)
        squares = [np.square(training[row : row + _BLOCK]).sum(axis=1) for row in blocks]
        self._squares = np.concatenate(squares)
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
    presets: ClassVar = {
        "fast": {
            "widths": [2.0, 8.0],
            "alphas": [10.0**power for power in range(-4, 1)],
            "variations": [3],
            "fits": 1,
        },
        "thorough": {"variations": [0, 4, 9], "releases_per_image": 4, "max_samples": 4000},
    }

    def mount(self, evidence: Evidence, seed: int, report: Report) -> Reconstruction:
        """Fit, choose on the validation images, reconstruct."""
        inverse = KernelInverses(self.options, ReleasedFeatures(evidence), seed, report)
        images = inverse(evidence.intercepts.features)
        return Reconstruction(images, again=inverse, validation_mse=inverse.error)

    def builds_on(self) -> Mapping[str, Options]:
        """Return the linear inverse, which is used where it is better."""
        return {"ridge": RidgeOptions()}

    def memory_bytes(self, sizes: Sizes) -> int:
        """Return the bytes of the features of all fits, and of the kernels."""
        options = self.options
        draws = options.releases_per_image if sizes.is_random else 1
        pairs = (draws + max(options.variations)) * sizes.auxiliary
        n = min(pairs, _most(options, sizes.features))
        features = (options.fits + 2) * n + sizes.validation + sizes.intercepts
        return 4 * (sizes.features * features + 6 * n * n + (options.fits + 2) * n * sizes.pixels)

    def effort(self, evidence: Evidence, intercepts: int) -> list[Effort]:
        """Return the queries, factorisations, solutions and kernels of every choice and fit."""
        options, released = self.options, ReleasedFeatures(evidence)
        draws = options.releases_per_image if released.is_random else 1
        images = len(released.auxiliary.images)
        most = _most(options, evidence.intercepts.features[0].size)
        pairs = min(draws * images, most)
        d, k = evidence.intercepts.features[0].size, evidence.auxiliary.images[0].size
        validation = len(released.auxiliary_validation.images)
        macs, queried = 0.0, 0
        counts = [count for count in options.variations if pairs + count * images <= most]
        for count in counts or [0]:
            n, queried = pairs + count * images, max(queried, count)
            factor, choices = _FACTOR_MACS * n**3, len(options.widths) * len(options.alphas)
            kernels = n * (n + validation) * _EXPONENTIAL_MACS
            macs += choices * (factor + n * (n + validation) * PROJECTIONS)
            macs += len(options.widths) * kernels + (n / 2 + validation) * n * d
        n = pairs + queried * images
        fit_macs = _FACTOR_MACS * n**3 + n * n * (k + _EXPONENTIAL_MACS + d / 2)
        shown = intercepts * n * (d + k + _EXPONENTIAL_MACS)
        fits, least = options.fits if queried else 1, min(pairs, d)
        asked = draws + queried * fits  # most: the best number may be smaller
        return [
            released.effort(asked, varied=queried > 0),
            products(macs + fits * (fit_macs + shown), np.float32),
            products(pairs * least * (d / 2 + k)),
            eigenvectors(least),
        ]


class KernelInverses:
    """The mean of several closed-form inverses: features (N, C', H', W') to images in [0, 1].

    Parameters
    ----------
    released : what is queried.

    Attributes
    ----------
    error : mean squared error on the validation images.
    """

    def __init__(
        self, options: KernelRidgeOptions, released: ReleasedFeatures, seed: int, report: Report
    ) -> None:
        self._options, self._released, self._seed = options, released, seed
        self._mean = mean_of(released.auxiliary)
        images = released.auxiliary.images
        draws = options.releases_per_image if released.is_random else 1
        self._most = _most(options, released.validation()[0].size)
        pairs = min(draws * len(images), self._most)
        releases = [released.training(draw) for draw in range(draws)]
        raw = (np.concatenate(releases) if draws > 1 else releases[0])[:pairs]
        self._first_variation = draws
        self._own = raw, images[np.arange(pairs) % len(images)]
        self._varied: dict[int, tuple[FloatArray, FloatArray]] = {}
        self._shown, truth = released.validation(), released.auxiliary_validation.images
        count, width, alpha = self._choice(truth)
        report(f"{count} variations of an image, width {width:g}, penalty {alpha:g}")
        fits = options.fits if count else 1
        self._inverses: list[Callable[[FloatArray], FloatArray]]
        self._inverses = [self._inverse(count, fit, width, alpha) for fit in range(fits)]
        self._varied.clear()
        self.error = released.error_of(self(self._shown))
        line = LinearInverse(RidgeOptions().alphas, *self._own, released)
        if line.error < self.error:
            report(f"the linear inverse is better, penalty {line.alpha:g}")
            self._inverses, self.error = [line], line.error

    def _pairs(self, count: int, fit: int) -> tuple[FloatArray, FloatArray]:
        """Return features and images of one fit, with ``count`` variations of each image."""
        if count == 0:
            return self._own
        features, images = [self._own[0]], [self._own[1]]
        for number in range(fit * count, (fit + 1) * count):
            released, varied = self._variation(number)
            features.append(released)
            images.append(varied)
        return np.concatenate(features), np.concatenate(images)

    def _kernel(self, count: int, fit: int) -> tuple[ChannelNormaliser, Kernel, FloatArray]:
        """Return normaliser, kernel and images of one fit; raw features are not kept."""
        raw, images = self._pairs(count, fit)
        normalise = ChannelNormaliser.fit(raw, per_element=True)
        return normalise, Kernel(_flat(normalise(raw))), images

    def _variation(self, number: int) -> tuple[FloatArray, FloatArray]:
        """Return features and images of one variation of each image; the first ones are kept."""
        if number not in self._varied:
            varied = augmentation.vary(
                self._released.auxiliary.images, self._seed, number, augmentation.NEAR
            )
            made = self._released.release(varied, self._first_variation + number), varied
            if number >= max(self._options.variations):
                return made
            self._varied[number] = made
        return self._varied[number]

    def _affordable(self) -> list[int]:
        images, pairs = len(self._released.auxiliary.images), len(self._own[0])
        most = max(self._options.variations)
        return [
            count
            for count in self._options.variations
            if count == 0
            or (
                pairs + count * images <= self._most
                # To choose among the numbers, and for all fits with one of them.
                and self._released.affords((most + (self._options.fits - 1) * count) * images)
            )
        ] or [0]

    def _choice(self, truth: FloatArray) -> tuple[int, float, float]:
        """Return the number of variations, width and penalty with the least validation error.

        A tie (constant features) selects the strongest penalty.
        """
        pixels = self._mean.size
        directions = generator(self._seed, "kernel_ridge projections").standard_normal(
            (pixels, PROJECTIONS), dtype=np.float32
        )
        goal = _flat(truth - self._mean) @ directions
        choices = []
        for count in self._affordable():
            normalise, kernel, images = self._kernel(count, 0)
            among, held_out = kernel.among(), kernel.parts(_flat(normalise(self._shown)))
            projected = _flat(images - self._mean) @ directions
            for width in self._options.widths:
                fitted, shown = combined(among, width), combined(held_out, width)
                for alpha in self._options.alphas:
                    error = _error(fitted, shown, alpha, projected, goal)
                    choices.append((error, -alpha, count, width))
        _, negative, count, width = min(choices)
        return count, width, -negative

    def _inverse(
        self, count: int, fit: int, width: float, alpha: float
    ) -> Callable[[FloatArray], FloatArray]:
        normalise, kernel, images = self._kernel(count, fit)
        among = kernel.among()
        is_flat = not np.tril(among[1]).any()
        weights = _fitted(combined(among, width), alpha, _flat(images - self._mean))

        def restored(features: FloatArray) -> FloatArray:
            predicted = combined(kernel.parts(_flat(normalise(features))), width) @ weights
            if is_flat:  # constant features: differences are rounding errors
                predicted = np.zeros_like(predicted)
            images: FloatArray = predicted.reshape(len(predicted), *self._mean.shape) + self._mean
            return np.clip(images, 0.0, 1.0).astype(np.float32)

        return restored

    @property
    def each(self) -> list[Callable[[FloatArray], FloatArray]]:
        """The inverses whose mean this is."""
        return self._inverses

    def __call__(self, features: FloatArray) -> FloatArray:
        """Return the images of released features."""
        total: FloatArray = np.zeros((len(features), *self._mean.shape), np.float32)
        for inverse in self._inverses:
            total += inverse(features)
        return total / np.float32(len(self._inverses))


def _most(options: KernelRidgeOptions, features: int) -> int:
    """Return how many training pairs a fit takes at most."""
    # Those of all fits, and the raw ones of the fit in work.
    return most_pairs(options.max_samples, features, options.fits + 2)


def _fitted(kernel: Matrix, alpha: float, targets: Matrix) -> Matrix:
    """Return the weights; other variations can need a larger penalty than the chosen one."""
    for _ in range(_MOST_PENALTIES):
        try:
            return fit(kernel, alpha, targets)
        except LinAlgError:
            alpha *= 10.0
    return fit(kernel, alpha, targets)


def _error(
    among: Matrix, held_out: Matrix, alpha: float, projected: Matrix, truth: Matrix
) -> float:
    try:
        weights = fit(among, alpha, projected)
    except LinAlgError:
        # The kernel of features of few dimensions is positive definite in single precision only if
        # the penalty is larger than the rounding errors.
        return math.inf
    return float(np.square(held_out @ weights - truth).mean())


def _flat(array: NDArray[np.float32]) -> Matrix:
    return array.reshape(len(array), -1)
