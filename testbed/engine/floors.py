"""An arm's floor: the reconstruction error that no attacker can beat, where its release has one.

The floors of ``testbed.privacy.floors`` speak of smoothed images, x + N(0, 0.1^2): each attack is
therefore shown the features of a few smoothed victims too, and its error on those is what is
compared with the floor. Those features never crossed the wire, and enter no other score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from clients.deployed import DeployedFrontEnd
from testbed.adversaries.base import FloatArray
from testbed.core.seeds import torch_generator
from testbed.data.federated import to_unit
from testbed.engine.replays import released_mean
from testbed.engine.world import Setting
from testbed.privacy.floors import (
    ANY_DISTRIBUTION_PRIOR,
    ExpectedGram,
    SpectrumQuadrature,
    smoothed,
)

POINTS = 24
"""Smoothed victims: E[G] is taken over them, and attacks are held against the floor on them."""

TRACE_PROBES = 4
SPECTRUM_PROBES = 3
LANCZOS_STEPS = 6
PASSES_PER_PRODUCT = 6  # a Jacobian product, in forward passes
AFFORDABLE_MACS = 150e9
_FIRST_DRAW = 900_000

Row = dict[str, Any]


@dataclass(frozen=True)
class SmoothedVictims:
    """Smoothed images (N, C, H, W), and what the front-end releases for them."""

    images: FloatArray
    features: FloatArray


@dataclass(frozen=True)
class ArmFloor:
    """What is guaranteed of an arm, if anything.

    Attributes
    ----------
    reason : in words, why there is no floor above zero; empty where there is one.
    noise_std : deviation of Gaussian noise as telling as the release's, None without.
    trace : mean over points of Tr J' J.
    """

    reason: str
    deployed: DeployedFrontEnd
    points: torch.Tensor
    noise_std: float | None = None
    trace: float = 0.0
    affords_spectrum: bool = False

    @property
    def exists(self) -> bool:
        """Whether there is a floor above zero."""
        return self.noise_std is not None

    def at(self, replays: int) -> Row:
        """Return the floors on the MSE per element for means over so many releases."""
        if self.noise_std is None:
            return {"mse": 0.0, "dfil": 0.0, "spectrum": None, "replays": replays}
        noise = self.noise_std / replays**0.5
        dimension = self.points[0].numel()
        dfil = 1.0 / (self.trace / dimension / noise**2 + ANY_DISTRIBUTION_PRIOR)
        spectrum: float | None = None
        if self.affords_spectrum:
            spectrum = self._quadrature.floor(noise).value
        best = max(dfil, spectrum or 0.0)
        return {"mse": best, "dfil": dfil, "spectrum": spectrum, "replays": replays}

    @cached_property
    def _quadrature(self) -> SpectrumQuadrature:
        gram = ExpectedGram(self.deployed.runner.signal, self.points)
        rng = torch_generator(self.deployed.program.seed, "floor probes")
        return SpectrumQuadrature(gram, rng, SPECTRUM_PROBES, LANCZOS_STEPS)

    def smoothed_victims(self, replays: int) -> SmoothedVictims | None:
        """Return the smoothed victims as an attacker would intercept them."""
        if not self.exists:
            return None
        images = self.points.numpy()
        features = released_mean(self.deployed, images, range(_FIRST_DRAW, _FIRST_DRAW + replays))
        return SmoothedVictims(images, features)


def arm_floor(setting: Setting, deployed: DeployedFrontEnd, front_end_macs: int) -> ArmFloor:
    """Return an arm's floor, with what is affordable of it computed.

    Parameters
    ----------
    front_end_macs : of one image; beyond a budget the cheaper dFIL alone is computed.
    """
    seed = setting.scenario.seed
    rows = setting.data.parts.victims[:POINTS]
    images = torch.from_numpy(to_unit(setting.data.pool.images[rows]))
    points = smoothed(images, torch_generator(seed, "floor smoothing"))
    noise_std = deployed.runner.defence.equivalent_noise_std()
    if noise_std is None:
        return ArmFloor(_reason(deployed, images), deployed, points)
    products = SPECTRUM_PROBES * LANCZOS_STEPS
    macs = products * PASSES_PER_PRODUCT * len(points) * front_end_macs
    trace = _trace(deployed, points, torch_generator(seed, "floor trace"))
    return ArmFloor("", deployed, points, noise_std, trace, macs <= AFFORDABLE_MACS)


def _reason(deployed: DeployedFrontEnd, images: torch.Tensor) -> str:
    probes = images[:2].numpy()
    if np.array_equal(deployed.query(probes, 0), deployed.query(probes, 1), equal_nan=True):
        return (
            "the floor is 0: this release is deterministic and adds no noise, so nothing is "
            "guaranteed against a better attack"
        )
    return (
        "no floor is known for this random release (its noise is not additive), so it counts as 0"
    )


def _trace(deployed: DeployedFrontEnd, points: torch.Tensor, rng: torch.Generator) -> float:
    """Return the mean of Tr J J' = E |J' u|^2 over random signs u of the features."""
    total = 0.0
    for part in torch.split(points, 16):
        x = part.clone().requires_grad_()
        z = deployed.runner.signal(x)
        for probe in range(TRACE_PROBES):
            signs = (torch.randint(0, 2, z.shape, generator=rng) * 2 - 1).to(z.dtype)
            keep = probe + 1 < TRACE_PROBES
            (pulled,) = torch.autograd.grad(z, x, signs, retain_graph=keep)
            total += float(pulled.double().square().sum()) / TRACE_PROBES
    return total / len(points)


def floor_entry(floor: ArmFloor, replays: Sequence[int]) -> Row:
    """Return the ``floor`` of an arm's entry in results.json."""
    return {
        "reason": floor.reason,
        "noise_std": floor.noise_std,
        "points": len(floor.points) if floor.exists else 0,
        "levels": [floor.at(count) for count in sorted(set(replays))],
    }
