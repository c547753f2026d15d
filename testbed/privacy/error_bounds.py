"""Lower bounds on the error of every attack, for any knowledge and computing power.

The device sends z = f(x) + N(0, s^2 I). Let G = J' J for the Jacobian J of f, let S be the Fisher
information of the input density, and H = E[G] / s^2 + S. The Bayesian (van Trees) inequality bounds
the error per element of every estimator of x from z by Tr(H^-1) / d. What is done to z afterwards
(rounding, pruning, clipping) cannot add information and does not matter.

Assumptions: f is continuous, with J its derivative almost everywhere (``jacobian_fault`` tests it),
and the input density is smooth. Images have none, so x is the image plus N(0, 0.1^2), not clamped:
the bound holds for that smoothed image, and E[G] is its mean over smoothed images. Smoothing with
N(0, t^2 I) gives S <= I / t^2, so ``prior = 1 / t^2`` holds for any distribution of images.

E[G] is known from sampled points only, and Tr(H^-1) is convex in it: put into the formula, a mean
over few points lands above the true bound. For any symmetric M, however,

    Tr(H^-1) >= 2 Tr M - Tr(M^2 H),        since Tr((M H - I) H^-1 (M H - I)') >= 0,

with equality for M = H^-1. The right side is linear in E[G]. Here M is chosen on some of the points
and the right side is estimated on others, which therefore does not overstate the bound. M = c I
gives dFIL; the spectrum-aware form has a basis of directions and one number for each.

References
----------
Maeng, Guo, Kariyappa, Suh, Bounding the invertibility of privacy-preserving instance encoding using
Fisher information, NeurIPS 2023 (dFIL). Hwang, Li, Maeng, 2026 (spectrum-aware). Gill, Levit,
Applications of the van Trees inequality, Bernoulli 1(1/2), 1995.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.core.compute import on_device
from testbed.core.plain_torch import weighted_gradients

SMOOTHING_STD = 0.1
ANY_DISTRIBUTION_PRIOR = 1.0 / SMOOTHING_STD**2
"""Upper bound (times the identity) of the Fisher information of any smoothed density."""

CONFIDENCE = 0.999
"""Of one printed bound: how surely it does not exceed the true one, over the choice of points."""

_EACH = 1.0 - (1.0 - CONFIDENCE) / 2.0
"""Confidence of each of the two forms, so that the better one has ``CONFIDENCE``."""

PROBES = 2
"""Random directions of the features per point, where a mean over many points is wanted."""

ALL_DIRECTIONS = 1024
FEWER_DIRECTIONS = 512
"""Directions of the spectrum-aware form: all up to a dimension, fewer in larger ones (speed)."""

Encoder = Callable[[Tensor], Tensor]


def smoothed(images: Tensor, rng: torch.Generator) -> Tensor:
    """Return the images plus smoothing noise, not clamped, so that the density has no atoms."""
    return images + SMOOTHING_STD * torch.randn(images.shape, generator=rng).to(images)


def pulled_back(
    encoder: Encoder, points: Tensor, probes: int, rng: torch.Generator, chunk: int = 32
) -> Tensor:
    """Return J' u for random signs u of the features, (N, probes, d): E[J' u u' J] = G.

    Parameters
    ----------
    encoder : front-end in evaluation mode without its noise, (N, *input) to (N, *features); images
        of a batch must not influence each other.
    points : smoothed images, (N, *input).
    chunk : points per pass through the encoder.
    """
    parts = []
    for part in torch.split(points, chunk):
        x = on_device(part.detach().clone()).requires_grad_()
        z = encoder(x)
        rows = []
        for probe in range(probes):
            signs = (torch.randint(0, 2, z.shape, generator=rng) * 2 - 1).to(z)
            (row,) = weighted_gradients([z], [x], [signs], retain_graph=probe + 1 < probes)
            rows.append(row.flatten(1))
        parts.append(torch.stack(rows, dim=1))
    return torch.cat(parts)


def jacobian_fault(encoder: Encoder, points: Tensor, rng: torch.Generator) -> str:
    """Say why derivatives are not those of a continuous function; empty where they are.

    They do not predict differences where a function rounds and passes gradients straight through,
    or stops gradients: then G is not what the bounds need. Kinks (ReLU, maximum) are allowed for.
    """
    step = 0.1 * SMOOTHING_STD
    x = on_device(points.detach().clone()).requires_grad_()
    z = encoder(x)
    signs = (torch.randint(0, 2, z.shape, generator=rng) * 2 - 1).to(z)
    shift = (torch.randint(0, 2, x.shape, generator=rng) * 2 - 1).to(x) * step
    (pulled,) = weighted_gradients([z], [x], [signs])
    with torch.no_grad():
        change = (encoder(x + shift) - encoder(x - shift)).double() / 2.0
        size = float(z.double().abs().amax())
    predicted = (pulled * shift).double().flatten(1).sum(dim=1)
    found = (change * signs).flatten(1).sum(dim=1)
    if not (math.isfinite(size) and torch.isfinite(predicted + found).all()):
        return "its features or their derivatives are not finite"
    rounding = z.numel() * (1e-6 * size) ** 2
    if (
        float((found - predicted).square().sum())
        <= 0.1 * float(predicted.square().sum()) + rounding
    ):
        return ""
    return (
        "its derivatives do not predict how the features change, as where it rounds or stops "
        "gradients"
    )


def upper_mean(values: Tensor, confidence: float) -> float:
    """Return an upper confidence limit of the mean of independent values; infinite for one value.

    Student's t with Johnson's correction for values that are skewed to the right, whose sample
    mean is too low more often than too high.

    References
    ----------
    Johnson, Modified t tests and confidence intervals for asymmetrical populations, JASA 73(363),
    1978.
    """
    count = len(values)
    if count < 2:
        return math.inf
    mean, deviation = float(values.mean()), float(values.std())
    if deviation == 0.0:
        return mean
    skewness = float(((values - mean) / deviation).pow(3).mean())
    from scipy import special  # slow to import

    t = float(special.stdtrit(count - 1, confidence))  # quantile of Student's t
    t += max(skewness, 0.0) * (2.0 * t**2 + 1.0) / (6.0 * math.sqrt(count))
    return mean + t * deviation / math.sqrt(count)


@dataclass(frozen=True)
class BoundEstimate:
    """An estimated error bound, and its lower confidence limit, which is what may be printed."""

    value: float
    lower: float


class NoiseBounds:
    """Bounds on the MSE per element for z = f(x) + N(0, s^2 I), for any noise s.

    The points are parted in three: on the first a basis of directions is found, on the second the
    response to each, which together give M; the third evaluates the bound.

    Parameters
    ----------
    encoder, points : as in ``pulled_back``.
    rows : J' u that the basis is made of; 0: the spectrum-aware form is not computed.
    """

    def __init__(self, encoder: Encoder, points: Tensor, rows: int, rng: torch.Generator) -> None:
        self.dimension = points[0].numel()
        self._spectrum: _Spectrum | None = None
        if rows == 0 or len(points) < 3:
            self._traces = _squares(pulled_back(encoder, points, PROBES, rng)).mean(dim=1)
            return
        first, second, third = points[::3], points[1::3], points[2::3]
        drawn = pulled_back(encoder, first, math.ceil(rows / len(first)), rng)
        basis = _directions(drawn.flatten(0, 1), rng)
        chosen, evaluated = (
            _responses(pulled_back(encoder, part, PROBES, rng), basis) for part in (second, third)
        )
        others = torch.tensor([float(self.dimension - len(basis))], dtype=torch.float64)
        sizes = on_device(torch.cat([torch.ones(len(basis), dtype=torch.float64), others]))
        self._spectrum = _Spectrum(sizes, chosen.mean(dim=0), evaluated)
        traces = (_squares(drawn).mean(dim=1), chosen.sum(dim=1), evaluated.sum(dim=1))
        self._traces = torch.cat(traces)

    def dfil(self, noise_std: float, prior: float = ANY_DISTRIBUTION_PRIOR) -> BoundEstimate:
        """Return dFIL's bound, d / (E[Tr G] / s^2 + Tr S)."""

        def bound(trace: float) -> float:
            return 1.0 / (trace / self.dimension / noise_std**2 + prior)

        limit = upper_mean(self._traces, _EACH)
        return BoundEstimate(bound(float(self._traces.mean())), bound(limit))

    def spectrum(
        self, noise_std: float, prior: float = ANY_DISTRIBUTION_PRIOR
    ) -> BoundEstimate | None:
        """Return the spectrum-aware bound; None where its basis was not computed."""
        if self._spectrum is None:
            return None
        return self._spectrum.bound(noise_std, prior, self.dimension)


@dataclass(frozen=True)
class _Spectrum:
    """E[G] in a basis: each direction by itself, and all directions outside of it together.

    Attributes
    ----------
    sizes : directions of each entry.
    chosen : tr V' G V of each entry, the mean over the points that M is chosen on.
    evaluated : the same of every other point.
    """

    sizes: Tensor
    chosen: Tensor
    evaluated: Tensor

    def bound(self, noise_std: float, prior: float, dimension: int) -> BoundEstimate:
        """Return (2 Tr M - Tr(M^2 H)) / d for the M that is best in this basis."""
        informations = self.chosen / self.sizes.clamp_min(1.0) / noise_std**2 + prior
        m = informations.reciprocal()
        constant = float((self.sizes * (2.0 * m - prior * m.square())).sum()) / dimension
        of_points = (self.evaluated @ m.square()) / noise_std**2 / dimension
        lower = constant - upper_mean(of_points, _EACH)
        return BoundEstimate(constant - float(of_points.mean()), max(0.0, lower))


def _responses(rows: Tensor, basis: Tensor) -> Tensor:
    """Return v' G v of every point for each direction v, and the sum over all others."""
    seen = (rows.double() @ basis.T).square().mean(dim=1)
    rest = (_squares(rows).mean(dim=1) - seen.sum(dim=1)).clamp_min(0.0)
    return torch.cat([seen, rest[:, None]], dim=1)


def _squares(rows: Tensor) -> Tensor:
    return rows.double().square().sum(dim=-1)


def _directions(rows: Tensor, rng: torch.Generator) -> Tensor:
    """Return orthonormal directions (k, d) that the rows (n, d) respond to most, or all of them.

    References
    ----------
    Halko, Martinsson, Tropp, SIAM Review 53(2), 2011, algorithm 4.4.
    """
    dimension = rows.shape[1]
    if dimension <= ALL_DIRECTIONS:
        return _eigenvectors(rows).T
    span = torch.randn(dimension, FEWER_DIRECTIONS, generator=rng).to(rows)
    for _ in range(2):
        span = torch.linalg.qr(rows.T @ (rows @ span))[0]
    return (span.double() @ _eigenvectors(rows @ span)).T


def _eigenvectors(rows: Tensor) -> Tensor:
    vectors: Tensor = torch.linalg.eigh((rows.T @ rows).double())[1]
    return vectors


def cem_relative(signal_variances: Sequence[float], noise_std: float, dimension: int) -> float:
    """Return the share of ``cem_figure`` that a noisy release leaves: exp(-2 I / d), in (0, 1].

    H(x|z) = H(x) - I(x; z), so the unknown H(x) cancels in the ratio to no release at all.
    I = h(z) - h(noise) is at most 1/2 sum log(1 + v / s^2), with equality for Gaussian signals.
    It compares releases of the same images; it is not an error bound.

    Parameters
    ----------
    signal_variances : v, eigenvalues of the signal's covariance.
    noise_std : s, of Gaussian noise.
    dimension : d, of the image.
    """
    information = 0.5 * sum(math.log1p(variance / noise_std**2) for variance in signal_variances)
    return cem_figure(-information, dimension) / cem_figure(0.0, dimension)


def cem_figure(conditional_entropy_nats: float, dimension: int) -> float:
    """Return exp(2 H(x|z) / d) / (2 pi e), the entropy bound on the MSE per element.

    A relative measure: H(x|z) of images is unknown, and with an estimate this is nearly vacuous.

    References
    ----------
    Conditional entropy maximisation, arXiv 2503.00383; Cover, Thomas, theorem 8.6.6.
    """
    return math.exp(2.0 * conditional_entropy_nats / dimension) / (2.0 * math.pi * math.e)
