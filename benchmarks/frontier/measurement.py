"""What one trained arm leaks, by attack and by measure, and what its edge costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from frontier.training import TrainedArm
from testbed.adversaries.base import (
    Evidence,
    FloatArray,
    FrontEndOracle,
    Intercepts,
    LabelledImages,
    Report,
    silent,
)
from testbed.adversaries.mounting import mount
from testbed.fleet.layer_stats import layer_stats
from testbed.privacy.leakage import measure_leakage
from testbed.privacy.scores import score
from testbed.wire.encoding import payload_bytes

MEASURED_ON_WIRE = 128
VICTIM_DRAW = 1_000_000
"""Far above the draws of attackers, who start from 0 and use one per epoch."""


@dataclass(frozen=True)
class AveragedOracle:
    """A front-end asked ``draws`` times for the same image: the replay attack on random releases.

    Attributes
    ----------
    draws : releases averaged into one query.
    """

    oracle: FrontEndOracle
    draws: int

    def query(self, images: FloatArray, draw: int) -> FloatArray:
        """Return the mean of ``draws`` releases; different ``draw`` share none of them."""
        first = draw * self.draws
        total = self.oracle.query(images, first)
        for index in range(1, self.draws):
            total = total + self.oracle.query(images, first + index)
        mean: FloatArray = total / np.float32(self.draws)
        return mean


@dataclass(frozen=True)
class AttackSetting:
    """Whose images the attacker owns, and whom it attacks; disjoint."""

    auxiliary: LabelledImages
    auxiliary_validation: LabelledImages
    victims: LabelledImages
    num_classes: int


def attack(
    arm: TrainedArm,
    inputs: AttackSetting,
    attacks: Sequence[tuple[str, dict[str, Any]]],
    seed: int,
    draws: int = 1,
    report: Report = silent,
) -> dict[str, Any]:
    """Mount the attacks on the defended wire.

    Parameters
    ----------
    attacks : names and options; each is scored by itself, and the best is repeated as ``best``.
    draws : releases of each image that the attacker averages, in training as in attack.

    Returns
    -------
    Mean MSE per element, PSNR, SSIM and re-identification of each attack.
    """
    oracle: FrontEndOracle = AveragedOracle(arm.deployed, draws)
    evidence = Evidence(
        num_classes=inputs.num_classes,
        auxiliary=inputs.auxiliary,
        auxiliary_validation=inputs.auxiliary_validation,
        intercepts=Intercepts(
            oracle.query(inputs.victims.images, VICTIM_DRAW),
            np.zeros(len(inputs.victims.labels), dtype=np.int64),
        ),
        oracle=oracle,
    )
    found: dict[str, Any] = {}
    scored = []
    truth = inputs.victims.images
    for name, options in attacks:
        images = mount(name, options, evidence, seed, report).images
        columns = score(images, truth, truth, np.arange(len(truth)))
        own = {name: float(values.mean()) for name, values in columns.items()}
        found |= {f"{name}_{key}": own[key] for key in ("mse", "psnr_db", "ssim")}
        scored.append((own["mse"], name, own))
    best = min(scored, key=lambda one: one[0])
    found["best_attack"] = best[1]
    return found | {f"best_{key}": value for key, value in best[2].items()}


def measures(arm: TrainedArm, images: FloatArray) -> dict[str, Any]:
    """Return leakage measures on these images, and the costs of the edge."""
    leakage = measure_leakage(images, arm.deployed.query(images, VICTIM_DRAW))
    edge = arm.deployed.device_spec.build()
    stats = layer_stats(edge.on_device(), arm.deployed.device_spec.image_shape)
    return {
        "dcor_v": leakage.dcor_v,
        "dcor_u": leakage.dcor_u,
        "live_channels": leakage.live_channels,
        "channels": leakage.channels,
        "participation_ratio": leakage.participation_ratio,
        "spectral_rank": leakage.spectral_rank,
        "edge_macs": stats.macs,
        "edge_params": stats.params,
        "wire_bytes": _mean_wire_bytes(arm, images[:MEASURED_ON_WIRE]),
    }


def _mean_wire_bytes(arm: TrainedArm, images: FloatArray) -> float:
    """Return the mean bytes that one image's features take as they travel."""
    released = torch.from_numpy(arm.deployed.query(images, VICTIM_DRAW))
    return float(
        np.mean([payload_bytes(arm.deployed.runner.encode(one[None])) for one in released])
    )


def is_random(arm: TrainedArm, images: NDArray[np.float32]) -> bool:
    """Tell whether two releases of the same images differ."""
    query = arm.deployed.query
    return not np.array_equal(query(images, 0), query(images, 1))
