"""Hands each adversary its evidence, runs the attacks in processes of their own, and scores them.

The wall between adversary and truth runs through this file: an ``AttackJob`` holds evidence alone
and is what travels to the adversary's process. Images of victims are looked up afterwards, by
request numbers that never left this side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from clients.deployed import DeployedFrontEnd
from testbed.adversaries.base import Evidence, Intercepts, LabelledImages, Reconstruction
from testbed.adversaries.mounting import mount
from testbed.core.scenario import Adversary, Component
from testbed.core.seeds import generator
from testbed.data.federated import to_unit
from testbed.engine.scoring import ScoredAttack, Victims, score_attack
from testbed.engine.serving import ServedArm
from testbed.engine.taps import Intercept, Tap
from testbed.engine.world import Setting, World

ANCHORS = (
    Component(name="mean_image", options={}),
    Component(name="class_mean_image", options={}),
)
Row = dict[str, Any]


@dataclass(frozen=True)
class AttackJob:
    """Everything that an adversary's process gets."""

    attacks: tuple[Component, ...]
    evidence: Evidence
    seed: int


def run_attacks(job: AttackJob) -> list[Reconstruction]:
    """Mount the attacks of one adversary, one after another, in one thread of numpy's too."""
    with threadpool_limits(1, user_api="blas"):
        return [mount(item.name, item.options, job.evidence, job.seed) for item in job.attacks]


@dataclass(frozen=True)
class AttackResults:
    """Attack entries of results.json, rows of attacks.parquet, and images for the report.

    ``read_nothing`` names the adversaries whose taps saw no answered request.
    """

    entries: list[Row]
    rows: list[Row]
    samples: dict[str, NDArray[np.uint8]]
    read_nothing: list[str]


def attack_arm(
    world: World, deployed: DeployedFrontEnd, taps: Sequence[Tap], served: ServedArm
) -> AttackResults:
    """Mount every adversary's attacks on one arm's intercepts, and score the reconstructions."""
    setting, arm = world.setting, deployed.program.arm
    everybody = [
        (adversary, [item for item in tap.intercepts if item.request in served.answers])
        for adversary, tap in zip(setting.scenario.adversaries, taps, strict=True)
    ]
    read_raw = {
        adversary.name: sum(1 for request in tap.raw_requests if request in served.answers)
        for adversary, tap in zip(setting.scenario.adversaries, taps, strict=True)
    }
    readings = [(adversary, read) for adversary, read in everybody if read]
    jobs = [_job(setting, deployed, adversary, read, served) for adversary, read in readings]
    outcomes = world.backend.run_jobs(
        [
            (f"adversary '{adversary.name}' on arm '{arm}'", run_attacks, (job,))
            for (adversary, _), job in zip(readings, jobs, strict=True)
        ],
        lambda name: world.progress.advance(1, name),
    )
    results = AttackResults([], [], {}, [item.name for item, read in everybody if not read])
    for (adversary, read), job, reconstructions in zip(readings, jobs, outcomes, strict=True):
        _score_adversary(setting, arm, adversary, read, served, job, reconstructions, results)
    for entry in results.entries:
        entry["raw_requests"] = read_raw[entry["adversary"]]
    return results


def _job(
    setting: Setting,
    deployed: DeployedFrontEnd,
    adversary: Adversary,
    read: Sequence[Intercept],
    served: ServedArm,
) -> AttackJob:
    """Collect what the threat model grants; nothing here names a device, a person or an image."""
    data, seed = setting.data, setting.scenario.seed
    share = adversary.knowledge.auxiliary_share
    order = generator(seed, f"auxiliary of {adversary.name}").permutation(len(data.parts.auxiliary))
    held = data.parts.auxiliary[np.sort(order[: max(1, round(share * len(order)))])]
    # The same attacker, with the same luck, faces every arm.
    draw = int(generator(seed, f"adversary {adversary.name}").integers(2**31))
    evidence = Evidence(
        num_classes=data.pool.num_classes,
        auxiliary=_labelled(setting, held),
        auxiliary_validation=_labelled(setting, data.parts.auxiliary_validation),
        intercepts=Intercepts(
            np.stack([item.features for item in read]),
            np.array([served.answers[item.request] for item in read], dtype=np.int64),
        ),
        # Its own random draws: with the scenario's seed an adversary could undo a defence's noise.
        oracle=replace(deployed, program=replace(deployed.program, seed=draw)),
    )
    names = {adversary.attack.name}
    attacks = (*(anchor for anchor in ANCHORS if anchor.name not in names), adversary.attack)
    return AttackJob(attacks, evidence, draw)


def _labelled(setting: Setting, rows: NDArray[np.int64]) -> LabelledImages:
    pool = setting.data.pool
    return LabelledImages(to_unit(pool.images[rows]), pool.labels[rows])


def _score_adversary(
    setting: Setting,
    arm: str,
    adversary: Adversary,
    read: Sequence[Intercept],
    served: ServedArm,
    job: AttackJob,
    reconstructions: Sequence[Reconstruction],
    results: AttackResults,
) -> None:
    victims = _victims(setting, read, served)
    shown = np.arange(min(setting.scenario.evaluation.reconstructions_shown, len(read)))
    results.samples[f"original/{arm}/{adversary.name}"] = _pixels(victims.images[shown])
    scored: dict[str, ScoredAttack] = {}
    for component, reconstruction in zip(job.attacks, reconstructions, strict=True):
        found = score_attack(setting.scenario, victims, component.name, reconstruction)
        scored[component.name] = found
        mean = scored.get(ANCHORS[0].name)
        results.entries.append(
            {
                "adversary": adversary.name,
                "attack": component.name,
                "position": _position(adversary),
                "worse_than_mean_image": mean is not None and found.mse > mean.mse,
                **found.entry,
            }
        )
        facts = {"arm": arm, "adversary": adversary.name, "attack": component.name}
        results.rows.extend({**facts, **row} for row in found.rows)
        key = f"{arm}/{adversary.name}/{component.name}"
        results.samples[key] = _pixels(reconstruction.images[shown])


def _victims(setting: Setting, read: Sequence[Intercept], served: ServedArm) -> Victims:
    by_request = {item.request: item.image for item in served.requests}
    rows = np.array([by_request[item.request] for item in read], dtype=np.int64)
    pool_rows = setting.data.parts.victims
    return Victims(
        requests=np.array([item.request for item in read], dtype=np.int64),
        rows=rows,
        devices=np.array([item.device for item in read], dtype=np.int64),
        device_classes=[setting.fleet.device_class(item.device) for item in read],
        labels=setting.data.pool.labels[rows],
        images=to_unit(setting.data.pool.images[rows]),
        pool=to_unit(setting.data.pool.images[pool_rows]),
        pool_index=np.searchsorted(pool_rows, rows),
    )


def _position(adversary: Adversary) -> str:
    if adversary.position.tap == "cloud":
        return "cloud"
    return f"{adversary.position.share_of_links:.0%} of the links"


def _pixels(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.rint(images * 255.0).clip(0, 255).astype(np.uint8)
    return pixels
