"""Lower bounds on the error of every attack, for any knowledge and computing power.

The device sends z = f(x) + N(0, s^2 I). Let G = J' J for the Jacobian J of f, and let S be the
Fisher information of the input density. The Bayesian (van Trees) inequality bounds the error per
element of every estimator of x from z. The density must be smooth, so x is the image plus
N(0, 0.1^2): the bound holds for that smoothed image, and E[G] must be evaluated on smoothed images.
Smoothing with N(0, t^2 I) gives S <= I / t^2, so ``prior = 1 / t^2`` holds for any distribution of
images.

Every bound is convex in E[G]: on average, a mean over few points lies above the true bound. Use
many points, and treat an error bound as an estimate.

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

SMOOTHING_STD = 0.1
ANY_DISTRIBUTION_PRIOR = 1.0 / SMOOTHING_STD**2
"""Upper bound (times the identity) of the Fisher information of any smoothed density."""

ERRORS_BELOW = 3.0
"""Attacks are compared with an estimated error bound lowered by this many standard errors."""

Encoder = Callable[[Tensor], Tensor]


def smoothed(images: Tensor, rng: torch.Generator) -> Tensor:
    """Return the images plus smoothing noise, not clamped, so that the density has no atoms."""
    return images + SMOOTHING_STD * torch.randn(images.shape, generator=rng).to(images)


class ExpectedGram:
    """E[G] = mean over points of J' J, as products with vectors, without forming a Jacobian.

    Parameters
    ----------
    encoder : front-end in evaluation mode without its noise, (N, *input) to (N, *features); images
        of a batch must not influence each other.
    points : smoothed images, (N, *input).
    chunk : points per pass through the encoder.
    """

    def __init__(self, encoder: Encoder, points: Tensor, chunk: int = 32) -> None:
        self._encoder = encoder
        self._points = points
        self._chunk = chunk
        self.dimension = points[0].numel()

    def __matmul__(self, vector: Tensor) -> Tensor:
        """Multiply with a flat vector (d,): J v as the derivative of J' u by u, then J' (J v)."""
        total = torch.zeros_like(vector)
        for part in torch.split(self._points, self._chunk):
            x = part.detach().requires_grad_()
            z = self._encoder(x)
            u = torch.zeros_like(z, requires_grad=True)
            (pulled,) = torch.autograd.grad(z, x, u, create_graph=True)
            tangent = vector.reshape(part.shape[1:]).expand_as(part)
            (pushed,) = torch.autograd.grad(pulled, u, tangent, retain_graph=True)
            total += torch.autograd.grad(z, x, pushed)[0].sum(dim=0).flatten()
        return total / len(self._points)


def noise_free_bound(gram: Tensor, share: float, prior: float = ANY_DISTRIBUTION_PRIOR) -> float:
    """Return (1/d) Tr((U' S U)^-1), where U spans the directions that no feature responds to.

    It is 0 for a deterministic front-end that responds to every direction somewhere. Such a
    front-end guarantees nothing, even if all known attacks fail.

    Parameters
    ----------
    gram : E[G], (d, d), or a multiple of it.
    share : directions with eigenvalues of at most this share of the largest are unseen.
    prior : S, as a multiple of the identity.
    """
    values = torch.linalg.eigvalsh(gram)
    return int((values <= share * values[-1]).sum()) / prior / len(gram)


@dataclass(frozen=True)
class BoundEstimate:
    """An error bound from random probes, and its standard error over them."""

    value: float
    standard_error: float
    probes: int

    @property
    def conservative(self) -> float:
        """The error bound minus three standard errors, at least 0."""
        return max(0.0, self.value - ERRORS_BELOW * self.standard_error)


class SpectrumQuadrature:
    """Estimates (1/d) Tr((E[G] / s^2 + S)^-1), a bound on the MSE per element, for any noise s.

    It is never below the dFIL bound d / (Tr E[G] / s^2 + Tr S).

    By stochastic Lanczos quadrature: each random-sign probe v contributes
    v' (E[G] / s^2 + S)^-1 v / d, by Gauss quadrature on its Lanczos tridiagonal matrix. Even
    derivatives of 1 / (e / s^2 + prior) are positive, so each quadrature is a lower bound: with too
    few steps the error bound is too low, never too high.

    References
    ----------
    Golub, Meurant, Matrices, Moments and Quadrature with Applications, 2010, theorem 6.4; Ubaru,
    Chen, Saad, SIAM Journal on Matrix Analysis and Applications 38(4), 2017, algorithm 1.
    """

    def __init__(
        self, gram: ExpectedGram, rng: torch.Generator, probes: int = 16, lanczos_steps: int = 40
    ) -> None:
        if probes < 2:
            raise ValueError("at least two probes are needed for a standard error")
        self._quadratures = []
        for _ in range(probes):
            signs = torch.randint(0, 2, (gram.dimension,), generator=rng) * 2 - 1
            start = signs.double() / math.sqrt(gram.dimension)
            self._quadratures.append(_lanczos(gram, start, lanczos_steps))

    def bound(self, noise_std: float, prior: float = ANY_DISTRIBUTION_PRIOR) -> BoundEstimate:
        """Return the error bound for a noise deviation, with its standard error over probes."""
        values = torch.stack(
            [
                (weights / (nodes.clamp_min(0.0) / noise_std**2 + prior)).sum()
                for nodes, weights in self._quadratures
            ]
        )
        probes = len(values)
        return BoundEstimate(float(values.mean()), float(values.std()) / math.sqrt(probes), probes)


def _lanczos(gram: ExpectedGram, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return quadrature nodes and weights of the unit vector ``start``, fully reorthogonalised."""
    basis = [start]
    diagonal: list[Tensor] = []
    off_diagonal: list[Tensor] = []
    for _ in range(min(steps, gram.dimension)):
        product = (gram @ basis[-1].to(gram._points.dtype)).double()
        diagonal.append(product @ basis[-1])
        for _twice in range(2):
            previous = torch.stack(basis)
            product = product - previous.T @ (previous @ product)
        norm = product.norm()
        if norm <= 1e-6 * diagonal[0].abs() or len(basis) == gram.dimension:
            break
        off_diagonal.append(norm)
        basis.append(product / norm)
    count = len(diagonal)
    off = (
        torch.stack(off_diagonal[: count - 1]) if count > 1 else torch.empty(0, dtype=torch.float64)
    )
    tridiagonal = torch.diag(torch.stack(diagonal)) + torch.diag(off, 1) + torch.diag(off, -1)
    nodes, vectors = torch.linalg.eigh(tridiagonal)
    return nodes, vectors[0].square()


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
