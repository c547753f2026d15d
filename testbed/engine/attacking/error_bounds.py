"""An arm's bound: the reconstruction error that no attacker can beat, where its release has one.

The bounds of ``testbed.privacy.error_bounds`` hold for smoothed images, x + N(0, 0.1^2). Each
attack is therefore also shown the features of a few smoothed victims, and its error on those is
compared with the bound. These features never crossed the wire and enter no other score.

Bounds are estimated on hundreds of smoothed victims: what is compared, and printed as a bound, is a
lower confidence limit. A release without noise has a bound where there are directions that no
feature responds to; where that is too much to compute, no bound is claimed, not even 0.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from clients.deployed import CHUNK, DeployedFrontEnd
from testbed.adversaries.base import FloatArray, IntArray
from testbed.core.seeds import generator, torch_generator
from testbed.data.federated import to_unit
from testbed.engine.attacking.replays import released_mean
from testbed.engine.setting.run_context import RunInputs
from testbed.privacy.error_bounds import (
    CONFIDENCE,
    NoiseBounds,
    cem_relative,
    jacobian_fault,
    smoothed,
)
from testbed.privacy.leakage import covariance_spectrum
from testbed.privacy.unseen import PASSES_PER_ROW, UnseenBound, unseen_bound, unseen_macs
from testbed.results.schema import BoundLevel, ErrorBound

POINTS = 384
"""Most victims that E[G] is estimated on, each smoothed once."""

CHECKED = 24
"""Smoothed victims that every attack reconstructs, to be held against the bound."""

SIGNALS = 512
"""Victims over whom the covariance of the signal is taken, for CEM's relative figure."""

BASIS_ROWS_PER_DIMENSION = 8
MOST_BASIS_ROWS = 2048
FEWEST_BASIS_ROWS = 256
"""Fewer show too little of the spectrum to be worth their time: dFIL alone is computed."""

AFFORDABLE_MACS = 150e9
_FIRST_DRAW = 900_000


@dataclass(frozen=True)
class SmoothedVictims:
    """Smoothed images (N, C, H, W), and what the front-end releases for them."""

    images: FloatArray
    features: FloatArray


@dataclass(frozen=True)
class ArmErrorBound:
    """What is guaranteed of an arm, if anything.

    Attributes
    ----------
    reason : in words, why there is no error bound above zero; empty where there is one.
    checked : the smoothed victims that attacks reconstruct.
    points : how many smoothed victims the error bound is estimated on.
    noise_std : deviation of Gaussian noise as telling as the release's, None without.
    bounds : for any noise, where there is noise.
    signal_variances : eigenvalues of the covariance of what the noise is added to, if finite.
    noise_free : the error bound of a release without noise; None where it was not computed.
    """

    reason: str
    deployed: DeployedFrontEnd
    checked: torch.Tensor
    points: int = 0
    noise_std: float | None = None
    bounds: NoiseBounds | None = None
    signal_variances: tuple[float, ...] | None = None
    noise_free: float | None = None

    @property
    def exists(self) -> bool:
        """Whether there is an error bound above zero."""
        return self.bounds is not None or bool(self.noise_free)

    def at(self, replays: int) -> BoundLevel:
        """Return the error bounds on the MSE per element for means over ``replays`` releases.

        ``mse`` is the error bound to hold attacks against: the better lower confidence limit.
        """
        if self.bounds is None or self.noise_std is None:
            return _level(replays, mse=self.noise_free, noise_free=self.noise_free)
        noise = self.noise_std / replays**0.5
        found = {"dfil": self.bounds.dfil(noise), "spectrum": self.bounds.spectrum(noise)}
        known = {name: estimate for name, estimate in found.items() if estimate is not None}
        values = {name: estimate.value for name, estimate in known.items()}
        limits = {f"{name}_lower": estimate.lower for name, estimate in known.items()}
        variances = self.signal_variances
        dimension = self.bounds.dimension
        left = None if variances is None else cem_relative(variances, noise, dimension)
        return _level(replays, mse=max(limits.values()), **values, **limits, cem_relative=left)

    def smoothed_victims(self, replays: int) -> SmoothedVictims | None:
        """Return the smoothed victims as an attacker would intercept them."""
        if not self.exists:
            return None
        images = self.checked.numpy()
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
    chosen = _drawn_victims(inputs)
    images = torch.from_numpy(to_unit(inputs.data.pool.images[chosen]))
    points = smoothed(images, torch_generator(seed, "floor smoothing"))
    checked = points[:CHECKED]
    if deployed.device_spec.precision == "int8":
        return ArmErrorBound(ROUNDED, deployed, checked)
    signal = deployed.runner.signal
    fault = jacobian_fault(signal, checked, torch_generator(seed, "floor Jacobian"))
    if fault:
        return ArmErrorBound(NOT_DIFFERENTIABLE.format(fault), deployed, checked)
    noise_std = deployed.runner.defence.equivalent_noise_std()
    if noise_std is None:
        found = _noise_free(deployed, points, front_end_macs, seed)
        counted = 0 if found.value is None else len(points)
        reason = _reason(found, deployed, images)
        return ArmErrorBound(reason, deployed, checked, counted, noise_free=found.value)
    rows = basis_rows(points[0].numel(), front_end_macs)
    bounds = NoiseBounds(signal, points, rows, torch_generator(seed, "floor probes"))
    variances = _signal_variances(inputs, deployed)
    return ArmErrorBound("", deployed, checked, len(points), noise_std, bounds, variances)


def _drawn_victims(inputs: RunInputs) -> IntArray:
    """Return rows of victims in a random order that depends on the images, not on their order."""
    victims = inputs.data.parts.victims
    by_content = victims[np.argsort(inputs.data.pool.content_keys[victims], kind="stable")]
    return generator(inputs.scenario.seed, "floor points").permutation(by_content)[:POINTS]


def basis_rows(dimension: int, front_end_macs: int) -> int:
    """Return how many rows the basis of the spectrum-aware bound is made of; 0 for no basis."""
    affordable = int(AFFORDABLE_MACS / (PASSES_PER_ROW * max(front_end_macs, 1)))
    rows = min(BASIS_ROWS_PER_DIMENSION * dimension, MOST_BASIS_ROWS, affordable)
    return rows if rows >= FEWEST_BASIS_ROWS else 0


NOT_DIFFERENTIABLE = (
    "no error bound computed for this front-end: {}; nothing is guaranteed against a better attack"
)
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
        parts = [deployed.runner.signal(part).cpu() for part in torch.split(images, CHUNK)]
    signal = torch.cat(parts).numpy()
    if not np.isfinite(signal).all():
        return None
    return tuple(covariance_spectrum(signal).tolist())


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
        points=bound.points,
        confidence=CONFIDENCE if bound.bounds else None,
        levels=[bound.at(count) for count in sorted(set(replays))],
    )
