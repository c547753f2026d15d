"""SiftFunnel+: low frequencies never enter the front-end, and the penalties are unbiased.

Three parts replace the loss of SiftFunnel (arXiv 2501.00824), whose biased terms reward dead
channels. None of them rewards features that shrink, die or have few dimensions:

1. **View.** The front-end sees v(x) = s (x - P x) + 1/2, where P projects each colour channel on
   its ``hidden_frequencies``^2 lowest DCT-II coefficients, and s sets an equal contrast. Natural
   images have most of their energy there (a 1/f^2 spectrum; Field 1987, JOSA A 4(12)), while
   edges and texture identify the class. Features depend on x only through v(x), so for any attacker

       MSE >= (1/d) E |P x - E[P x | v(x)]|^2.

2. **Decoder penalty.** ``leak_weight`` times the share of the batch's pixel variance that a kernel
   ridge decoder predicts for each image from the features of the *others*: leave-one-out residuals
   are e_i = [A x]_i / A_ii with A = (K + a I)^-1 (Allen's PRESS; Cook and Weisberg 1982). The
   prediction is out of sample, so a large number of feature dimensions is not penalised by itself.
3. **Distance correlation** as a U-statistic (Szekely and Rizzo 2014): zero in expectation for
   independent features of any dimension. The D of SiftFunnel and NoPeek is not.

The released features may be averaged to a coarse grid, and noise may be added to features of equal
power. All terms are functions of one batch without state between steps, so a run is the same for
any number of hosts.
"""

import math
from functools import lru_cache
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from clients.defences.base import Batch, Defence, Shape, smoothed_targets
from clients.defences.noise import standard_normal
from clients.defences.nopeek import pairwise_distances
from testbed.core.registries import DEFENCES
from testbed.core.registry import NonNegative, Options

VIEW_CONTRAST = 0.25
"""Root mean square of a view's pixels, about that of natural images in [0, 1]."""

CONTRAST_FLOOR = 0.01
"""Root mean square below which an image counts as flat; its contrast is not raised further."""

FEWEST_IMAGES = 4

PENALTIES = (0.03, 0.3, 3.0, 30.0)
"""Ridge penalties that the closed-form decoder may choose from, relative to features of power 1."""


class SiftFunnelPlusOptions(Options):
    """The view, the weights of the penalties, and the release."""

    hidden_frequencies: Annotated[int, Field(ge=0, le=16)] = Field(
        default=3, description="lowest DCT frequencies per axis that are hidden; 0 shows the image"
    )
    equal_contrast: bool = Field(
        default=True, description="give every view the same contrast; needs hidden frequencies"
    )
    leak_weight: NonNegative = Field(
        default=0.5, description="weight of the variance share that a closed-form decoder predicts"
    )
    correlation_weight: NonNegative = Field(
        default=0.0, description="weight of the bias-corrected distance correlation"
    )
    grid: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None, description="cells per axis that features are averaged to; null keeps all"
    )
    noise: NonNegative = Field(
        default=0.0, description="standard deviation of noise on features of power 1; 0: no noise"
    )
    smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


@lru_cache(maxsize=32)
def dct_basis(size: int, count: int) -> Tensor:
    """Return the ``count`` lowest vectors of the orthonormal DCT-II, float32 (size, count)."""
    # In NumPy: the device stores it, so that counters of operations must not see it made.
    position = np.arange(size)[:, None] + 0.5
    frequency = np.arange(count)[None, :]
    basis = np.cos(math.pi / size * position * frequency) * math.sqrt(2.0 / size)
    basis[:, 0] *= math.sqrt(0.5)
    return torch.from_numpy(basis.astype(np.float32))


def without_low_frequencies(x: Tensor, count: int) -> Tensor:
    """Return x - P x: images (N, C, H, W) without their ``count`` x ``count`` lowest DCT terms."""
    rows, columns = (dct_basis(size, count).to(x) for size in x.shape[2:])
    return x - rows @ (rows.T @ x @ columns) @ columns.T


def decoder_leak(x: Tensor, z: Tensor) -> Tensor:
    """Return the share of the variance of ``x`` that a decoder on ``z`` predicts out of sample.

    1 - sum |e_i|^2 / sum |x_i - mean of the others|^2 with the leave-one-out residuals e_i of
    kernel ridge regression, for the best of ``PENALTIES``. The kernel is the inner product plus a
    Gaussian, of features scaled to power 1 (so that their scale does not matter), plus a constant
    for the intercept. About 0 for independent features, at most 1; slightly negative if no penalty
    predicts better than the mean.

    Parameters
    ----------
    x, z : (N, ...) images and features, flattened per sample.
    """
    count = len(x)
    images, features = (side.flatten(1) - side.flatten(1).mean(dim=0) for side in (x, z))
    power = features.square().sum(dim=1)
    features = features * power.mean().clamp_min(1e-12).rsqrt()
    products = features @ features.T
    squares = products.diagonal()
    distances = (squares[:, None] + squares[None, :] - 2.0 * products).clamp_min(0.0)
    kernel = products + torch.exp(-0.5 * distances)
    # |x_i - mean of the others| = N / (N - 1) |x_i - mean|
    total = images.square().sum() * (count / (count - 1)) ** 2
    shares = []
    for penalty in PENALTIES:
        # The constant is a free intercept, which the left-out image does not influence.
        inverse = torch.linalg.inv(kernel + penalty * (torch.eye(count).to(kernel) + 100.0))
        residuals = (inverse @ images) / inverse.diagonal()[:, None]
        shares.append(1.0 - residuals.square().sum() / total.clamp_min(1e-12))
    return torch.stack(shares).amax()


def unbiased_distance_correlation(x: Tensor, z: Tensor) -> Tensor:
    """Return the squared distance correlation with U-centred distances; it may be negative.

    Parameters
    ----------
    x, z : (N, ...) samples, N at least 4, flattened per sample.

    References
    ----------
    Szekely, Rizzo, Annals of Statistics 42(6), 2014, definitions 2 and 3.
    """
    count = len(x)
    others = 1.0 - torch.eye(count).to(z)

    def centred(samples: Tensor) -> Tensor:
        distances = pairwise_distances(samples) * others
        sums = distances.sum(dim=0)
        grand = sums.sum() / ((count - 1) * (count - 2))
        return (distances - (sums[:, None] + sums[None, :]) / (count - 2) + grand) * others

    a, b = centred(x), centred(z)
    return (a * b).sum() / (a.square().sum() * b.square().sum()).clamp_min(1e-20).sqrt()


@DEFENCES.register(
    "siftfunnel_plus",
    "hides low frequencies from the front-end, penalises what a closed-form decoder predicts",
    SiftFunnelPlusOptions,
    source="this project, docs/siftfunnel_plus.md",
)
class SiftFunnelPlus(Defence):
    """View, decoder penalty and unbiased distance correlation."""

    options: SiftFunnelPlusOptions

    def __init__(self, options: SiftFunnelPlusOptions) -> None:
        super().__init__(options)
        self.changes_view = options.hidden_frequencies > 0

    def build(self, image_shape: Shape, feature_shape: Shape, num_classes: int) -> None:
        """Check the options against the shapes; there are no modules.

        Raises
        ------
        ValueError : a view that hides everything, or a grid finer than the features.
        """
        hidden, grid = self.options.hidden_frequencies, self.options.grid
        if hidden >= min(image_shape[1:]):
            raise ValueError(f"hidden_frequencies: {hidden} of images of {image_shape}")
        if grid is not None and grid > min(feature_shape[1:]):
            raise ValueError(f"grid: {grid} cells per axis, features of {feature_shape}")

    def view(self, x: Tensor) -> Tensor:
        """Return the images without their low frequencies, at equal contrast, around 1/2."""
        options = self.options
        if options.hidden_frequencies == 0:
            return x
        detail = without_low_frequencies(x, options.hidden_frequencies)
        if options.equal_contrast:
            power = detail.square().mean(dim=(1, 2, 3), keepdim=True)
            detail = detail * (VIEW_CONTRAST * power.clamp_min(CONTRAST_FLOOR**2).rsqrt())
        return detail + 0.5

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return smoothed labels (N, K)."""
        return smoothed_targets(labels, num_classes, self.options.smoothing)

    def signal(self, z: Tensor) -> Tensor:
        """Return the features before noise, as small as the grid: repeats add no information."""
        options = self.options
        if options.grid is not None:
            z = functional.adaptive_avg_pool2d(z, options.grid)
        if options.noise:
            # Equal power: larger features would drown the noise.
            z = functional.layer_norm(z, z.shape[1:])
        return z

    def penalty(self, batch: Batch) -> Tensor | None:
        """Return the weighted sum of the decoder penalty and the distance correlation.

        None for fewer than 4 images, for which neither statistic exists.
        """
        options = self.options
        if len(batch.x) < FEWEST_IMAGES:
            return None
        sifted = self.signal(batch.z)
        terms = []
        if options.leak_weight:
            terms.append(options.leak_weight * decoder_leak(batch.x, sifted))
        if options.correlation_weight:
            correlation = unbiased_distance_correlation(batch.x, sifted)
            terms.append(options.correlation_weight * correlation)
        return torch.stack(terms).sum() if terms else None

    def equivalent_noise_std(self) -> float | None:
        """Return the standard deviation of the noise, None without noise."""
        return self.options.noise or None

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return the sifted features with noise, each cell of the grid repeated to the shape."""
        sifted = self.signal(z)
        if self.options.noise:
            sifted = sifted + self.options.noise * standard_normal(z, rng, sifted.shape)
        if sifted.shape != z.shape:
            sifted = functional.interpolate(sifted, size=z.shape[2:], mode="nearest")
        return sifted
