"""Hands each adversary its evidence, runs the attacks in processes of their own, and scores them.

The wall between adversary and truth runs through this file: an ``AttackJob`` holds evidence alone
and is what travels to the adversary's process; images of victims are looked up afterwards, by the
request numbers that stayed here.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.deployed import DeployedFrontEnd
from testbed.adversaries.base import Evidence, Intercepts, LabelledImages, Reconstruction
from testbed.adversaries.mounting import mount
from testbed.core.registries import ATTACKS
from testbed.core.scenario import Adversary, Component
from testbed.core.seeds import generator
from testbed.data.federated import to_unit
from testbed.engine.serving import ServedArm
from testbed.engine.taps import Tap
from testbed.engine.world import Setting, World
from testbed.privacy.evaluation import AttackIdentity, score_attack

ANCHORS = ("mean_image", "class_mean_image")
Row = dict[str, Any]


@dataclass(frozen=True)
class AttackJob:
    """Everything that an adversary's process gets."""

    attacks: tuple[Component, ...]
    evidence: Evidence
    seed: int


def run_attacks(job: AttackJob) -> list[Reconstruction]:
    """Mount the attacks of one adversary, one after another."""
    return [mount(item.name, item.options, job.evidence, job.seed) for item in job.attacks]


@dataclass(frozen=True)
class AttackResults:
    """Attack entries of results.json, rows of attacks.parquet, and images for the report."""

    entries: list[Row]
    rows: list[Row]
    samples: dict[str, NDArray[np.uint8]]


def attack_arm(
    world: World,
    deployed: DeployedFrontEnd,
    taps: Sequence[Tap],
    served: ServedArm,
) -> AttackResults:
    """Mount every adversary's attacks on one arm's intercepts and score the reconstructions."""
    setting, arm = world.setting, deployed.program.arm
    adversaries = setting.scenario.adversaries
    pairs = [
        (adversary, tap)
        for adversary, tap in zip(adversaries, taps, strict=True)
        if _read(tap, served)
    ]
    jobs = [_job(setting, deployed, adversary, tap, served) for adversary, tap in pairs]
    outcomes = world.backend.run_jobs(
        [
            (f"adversary '{adversary.name}' on arm '{arm}'", run_attacks, (job,))
            for (adversary, _), job in zip(pairs, jobs, strict=True)
        ]
    )
    results = AttackResults([], [], {})
    for (adversary, tap), job, reconstructions in zip(pairs, jobs, outcomes, strict=True):
        truths = _truths(tap, served)
        shown = _shown(world, len(truths))
        results.samples[f"original/{arm}/{adversary.name}"] = _bytes_of(
            to_unit(setting.data.pool.images[truths[shown]])
        )
        mean_mse: NDArray[np.float64] | None = None
        for component, reconstruction in zip(job.attacks, reconstructions, strict=True):
            identity = AttackIdentity(arm, adversary.name, component.name, adversary.position.tap)
            entry, rows, mse = _score(
                world, identity, adversary, component, reconstruction, (tap, served), mean_mse
            )
            mean_mse = mse if component.name == ANCHORS[0] else mean_mse
            results.entries.append(entry)
            results.rows.extend(rows)
            key = f"{arm}/{adversary.name}/{component.name}"
            results.samples[key] = _bytes_of(reconstruction.images[shown])
        world.progress.advance(1, adversary.name)
    return results
