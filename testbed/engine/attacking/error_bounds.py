"""An arm's bound: the reconstruction error that no attacker can beat, where its release has one.

The bounds of ``testbed.privacy.error_bounds`` hold for smoothed images, x + N(0, 0.1^2). Each
attack is therefore also shown the features of a few smoothed victims, and its error on those is
compared with the bound. These features never crossed the wire and enter no other score.

Bounds are estimates from random probes: what is compared, and printed as a bound, is an estimate
less three of its standard errors. A release without noise has a bound where there are directions
that no feature responds to; where that is too much to compute, no bound is claimed, not even 0.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from clients.deployed import CHUNK, DeployedFrontEnd
from testbed.adversaries.base import FloatArray
from testbed.core.seeds import torch_generator
from testbed.data.federated import to_unit
from testbed.engine.attacking.replays import released_mean
from testbed.engine.setting.run_context import RunInputs
from testbed.privacy.error_bounds import (
    ANY_DISTRIBUTION_PRIOR,
    BoundEstimate,
    Encoder,
    ExpectedGram,
    SpectrumQuadrature,
    cem_relative,
    smoothed,
)
from testbed.privacy.leakage import covariance_spectrum
from testbed.privacy.unseen import UnseenBound, unseen_bound, unseen_macs
from testbed.results.schema import BoundLevel, ErrorBound

POINTS = 24
"""Smoothed victims: E[G] is taken over them, and attacks are held against the bound on them."""

SIGNALS = 512
"""Victims over whom the covariance of the signal is taken, for CEM's relative figure."""

TRACE_PROBES = 4
SPECTRUM_PROBES = 3
LANCZOS_STEPS = 6
PASSES_PER_PRODUCT = 6  # a Jacobian product, in forward passes
AFFORDABLE_MACS = 150e9
_FIRST_DRAW = 900_000


@dataclass(frozen=True)
class SmoothedVictims:
    """Smoothed images (N, C, H, W), and what the front-end releases for them."""

    images: FloatArray
    features: FloatArray


@dataclass(frozen=True)
class TraceEstimate:
    """The mean over points of Tr J' J, and its standard error over points and probes."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class ArmErrorBound:
    """What is guaranteed of an arm, if anything.

    Attributes
    ----------
    reason : in words, why there is no error bound above zero; empty where there is one.
    noise_std : deviation of Gaussian noise as telling as the release's, None without.
    trace : of E[G], where there is noise.
    signal_variances : eigenvalues of the covariance of what the noise is added to, if finite.
    noise_free : the error bound of a release without noise; None where it was not computed.
    """

    reason: str
    deployed: DeployedFrontEnd
    points: torch.Tensor
    noise_std: float | None = None
    trace: TraceEstimate = TraceEstimate(0.0, 0.0)
    affords_spectrum: bool = False
    signal_variances: tuple[float, ...] | None = None
    noise_free: float | None = None

    @property
    def computed(self) -> bool:
        """Whether there is an error bound; it may be 0."""
        return self.noise_std is not None or self.noise_free is not None

    @property
    def exists(self) -> bool:
        """Whether there is an error bound above zero."""
        return self.noise_std is not None or bool(self.noise_free)

    def at(self, replays: int) -> BoundLevel:
        """Return the error bounds on the MSE per element for means over ``replays`` releases.

        ``mse`` is the error bound to hold attacks against: three standard errors below an estimate.
        """
        if self.noise_std is None:
            return _level(replays, mse=self.noise_free, noise_free=self.noise_free)
        noise = self.noise_std / replays**0.5
        dimension = self.points[0].numel()
        found = {"dfil": self._dfil(noise)}
        if self.affords_spectrum:
            found["spectrum"] = self._quadrature.bound(noise)
        estimates = {name: estimate.value for name, estimate in found.items()}
        errors = {f"{name}_error": estimate.standard_error for name, estimate in found.items()}
        variances = self.signal_variances
        left = None if variances is None else cem_relative(variances, noise, dimension)
        best = max(estimate.conservative for estimate in found.values())
        return _level(replays, mse=best, **estimates, **errors, cem_relative=left)

    def _dfil(self, noise: float) -> BoundEstimate:
        """Return dFIL's error bound; its error follows from the trace's to first order."""
        per_element = self.points[0].numel() * noise**2
        value = 1.0 / (self.trace.value / per_element + ANY_DISTRIBUTION_PRIOR)
        error = value**2 * self.trace.standard_error / per_element
        return BoundEstimate(value, error, TRACE_PROBES)

    @cached_property
    def _quadrature(self) -> SpectrumQuadrature:
        gram = ExpectedGram(self.deployed.runner.signal, self.points)
        rng = torch_generator(self.deployed.device_spec.seed, "floor probes")
        return SpectrumQuadrature(gram, rng, SPECTRUM_PROBES, LANCZOS_STEPS)

    def smoothed_victims(self, replays: int) -> SmoothedVictims | None:
        """Return the smoothed victims as an attacker would intercept them."""
        if not self.exists:
            return None
        images = self.points.numpy()
        features = released_mean(self.deployed, images, range(_FIRST_DRAW, _FIRST_DRAW + replays))
        return SmoothedVictims(images, features)


def arm_error_bound(
    inputs: RunInputs, deployed: DeployedFrontEnd, front_end_macs: int
) -> ArmErrorBound:
    """Return an arm's error bound, with what is affordable of it computed.

    Parameters
    ----------
    front_end_macs : of one image; beyond a budget the cheaper dFIL alone is computed.
    """
    seed = inputs.scenario.seed
    rows = inputs.data.parts.victims[:POINTS]
    images = torch.from_numpy(to_unit(inputs.data.pool.images[rows]))
    points = smoothed(images, torch_generator(seed, "floor smoothing"))
    if deployed.device_spec.precision == "int8":
        return ArmErrorBound(ROUNDED, deployed, points)
    noise_std = deployed.runner.defence.equivalent_noise_std()
    if noise_std is None:
        found = _noise_free(deployed, points, front_end_macs, seed)
        return ArmErrorBound(
            _reason(found, deployed, images), deployed, points, noise_free=found.value
        )
    products = SPECTRUM_PROBES * LANCZOS_STEPS
    macs = products * PASSES_PER_PRODUCT * len(points) * front_end_macs
    trace = _trace(deployed.runner.signal, points, torch_generator(seed, "floor trace"))
    variances = _signal_variances(inputs, deployed)
    return ArmErrorBound("", deployed, points, noise_std, trace, macs <= AFFORDABLE_MACS, variances)


ROUNDED = (
    "no error bound computed: the front-end rounds to 8 bits on its way, so it has no Jacobian; "
    "nothing is guaranteed against a better attack"
)


def _noise_free(
    deployed: DeployedFrontEnd, points: torch.Tensor, front_end_macs: int, seed: int
) -> UnseenBound:
    if unseen_macs(points[0].numel(), front_end_macs) > AFFORDABLE_MACS:
        return UnseenBound(None, "its Jacobian is too large to examine within a run")
    return unseen_bound(deployed.runner.signal, points, torch_generator(seed, "floor unseen"))


def _reason(found: UnseenBound, deployed: DeployedFrontEnd, images: torch.Tensor) -> str:
    """Say why a release that is no signal plus noise has no bound above zero; empty if it has."""
    if found.value:
        return ""
    probes = images[:2].numpy()
    fixed = np.array_equal(deployed.query(probes, 0), deployed.query(probes, 1), equal_nan=True)
    release = (
        "this release is deterministic and adds no noise"
        if fixed
        else "the noise of this random release is not additive"
    )
    if found.value is None:
        return f"no error bound computed: {release}, and {found.reason}; nothing is guaranteed"
    return (
        f"the error bound is 0, as computed: {release}, and the features respond to every "
        "direction of the image, so nothing is guaranteed against a better attack"
    )


def _signal_variances(inputs: RunInputs, deployed: DeployedFrontEnd) -> tuple[float, ...] | None:
    """Return the eigenvalues of the covariance of the signal over the first victims."""
    rows = inputs.data.parts.victims[:SIGNALS]
    images = torch.from_numpy(to_unit(inputs.data.pool.images[rows]))
    with torch.no_grad():
        parts = [deployed.runner.signal(part) for part in torch.split(images, CHUNK)]
    signal = torch.cat(parts).numpy()
    if not np.isfinite(signal).all():
        return None
    return tuple(covariance_spectrum(signal).tolist())


def _trace(signal: Encoder, points: torch.Tensor, rng: torch.Generator) -> TraceEstimate:
    """Return the mean of Tr J J' = E |J' u|^2 over random signs u of the features."""
    found = []
    for part in torch.split(points, CHUNK):
        x = part.clone().requires_grad_()
        z = signal(x)
        squares = []
        for probe in range(TRACE_PROBES):
            signs = (torch.randint(0, 2, z.shape, generator=rng) * 2 - 1).to(z.dtype)
            keep = probe + 1 < TRACE_PROBES
            (pulled,) = torch.autograd.grad(z, x, signs, retain_graph=keep)
            squares.append(pulled.double().square().flatten(1).sum(dim=1))
        found.append(torch.stack(squares, dim=1))
    of_points = torch.cat(found)
    # Probes of different points are independent: the spread of their means has both errors in it.
    samples = of_points.mean(dim=1) if len(of_points) > 1 else of_points[0]
    return TraceEstimate(float(samples.mean()), float(samples.std()) / len(samples) ** 0.5)


def _level(replays: int, **estimates: float | None) -> BoundLevel:
    """Return a level of an arm's error bound, None for estimates that do not apply."""
    absent = dict.fromkeys(BoundLevel.model_fields)
    return BoundLevel.model_validate(absent | estimates | {"replays": replays})


def bound_result(tier: str, bound: ArmErrorBound, replays: Iterable[int]) -> ErrorBound:
    """Return the error bound of a tier for means over these numbers of releases."""
    return ErrorBound(
        tier=tier,
        reason=bound.reason,
        noise_std=bound.noise_std,
        points=len(bound.points) if bound.computed else 0,
        levels=[bound.at(count) for count in sorted(set(replays))],
    )
