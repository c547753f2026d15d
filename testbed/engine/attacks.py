"""Hands each adversary its evidence, runs the attacks in processes of their own, and scores them.

The wall between adversary and truth runs through this file: an ``AttackJob`` holds evidence alone
and is what travels to the adversary's process. Images of victims are looked up afterwards, by
request numbers that never left this side.
"""

from collections import Counter
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
from testbed.engine.models import ArmModels
from testbed.engine.scoring import ScoredAttack, Victims, score_attack
from testbed.engine.serving import ServedArm
from testbed.engine.taps import Intercept, Tap
from testbed.engine.training import TrainedArm
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


@dataclass(frozen=True)
class _Reading:
    """What one adversary read from the devices of one tier."""

    adversary: Adversary
    tier: int
    read: list[Intercept]


def attack_arm(
    world: World, arm: TrainedArm, taps: Sequence[Tap], served: ServedArm
) -> AttackResults:
    """Mount every adversary's attacks on one arm's intercepts, and score the reconstructions.

    Tiers differ in front-end, hence in the shape and meaning of features: an adversary, who sees
    which is which, attacks each of them apart.
    """
    setting = world.setting
    adversaries = setting.scenario.adversaries
    readings = [
        reading
        for adversary, tap in zip(adversaries, taps, strict=True)
        for reading in _by_tier(adversary, tap, arm.models.tier_of, served)
    ]
    deployed = {tier: arm.deployed(tier) for tier in arm.models.used()}
    jobs = [
        _job(setting, deployed[item.tier], item.adversary, item.read, served) for item in readings
    ]
    left = Counter(item.adversary.name for item in readings)

    def on_done(job_name: str) -> None:
        """Count an adversary as done with its last tier."""
        adversary = job_name.split("'")[1]
        left[adversary] -= 1
        world.progress.advance(0 if left[adversary] else 1, job_name)

    outcomes = world.backend.run_jobs(
        [
            (_job_name(arm.models, item), run_attacks, (job,))
            for item, job in zip(readings, jobs, strict=True)
        ],
        on_done,
    )
    read_nothing = [item.name for item in adversaries if item.name not in left]
    results = AttackResults([], [], {}, read_nothing)
    for adversary in adversaries:
        own = [
            (item, job, found)
            for item, job, found in zip(readings, jobs, outcomes, strict=True)
            if item.adversary.name == adversary.name
        ]
        if own:
            _score_adversary(setting, arm.models, adversary, own, served, results)
    for entry in results.entries:
        tap = next(tap for tap in taps if tap.name == entry["adversary"])
        entry["raw_requests"] = sum(1 for item in tap.raw_requests if item in served.answers)
    return results


def _by_tier(
    adversary: Adversary, tap: Tap, tier_of: NDArray[np.int64], served: ServedArm
) -> list[_Reading]:
    """Sort the intercepts of answered requests by the tier of the device that sent them."""
    answered = [item for item in tap.intercepts if item.request in served.answers]
    tiers = sorted({int(tier_of[item.device]) for item in answered})
    return [
        _Reading(adversary, tier, [item for item in answered if tier_of[item.device] == tier])
        for tier in tiers
    ]


def _job_name(models: ArmModels, item: _Reading) -> str:
    tier = f", tier '{models.tiers[item.tier].program.tier}'" if len(models.used()) > 1 else ""
    return f"adversary '{item.adversary.name}' on arm '{models.arm}'{tier}"


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
    models: ArmModels,
    adversary: Adversary,
    own: Sequence[tuple[_Reading, AttackJob, list[Reconstruction]]],
    served: ServedArm,
    results: AttackResults,
) -> None:
    """Score one adversary's attacks over all tiers, and each tier by itself."""
    arm = models.arm
    read = [item for reading, _, _ in own for item in reading.read]
    victims = _victims(setting, models, read, served)
    shown = _shown([len(reading.read) for reading, _, _ in own], setting)
    results.samples[f"original/{arm}/{adversary.name}"] = _pixels(victims.images[shown])
    scored: dict[str, ScoredAttack] = {}
    for number, component in enumerate(own[0][1].attacks):
        parts = {
            models.tiers[reading.tier].program.tier: found[number] for reading, _, found in own
        }
        found = score_attack(setting.scenario, victims, component.name, parts)
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
        images = np.concatenate([part.images for part in parts.values()])
        results.samples[f"{arm}/{adversary.name}/{component.name}"] = _pixels(images[shown])


def _shown(sizes: Sequence[int], setting: Setting) -> NDArray[np.int64]:
    """Choose the victims that the report shows, from every tier in turn."""
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    wanted = min(setting.scenario.evaluation.reconstructions_shown, sum(sizes))
    turns = [
        (place, int(start) + place)
        for start, size in zip(starts, sizes, strict=True)
        for place in range(size)
    ]
    chosen = sorted(index for _, index in sorted(turns)[:wanted])
    return np.array(chosen, dtype=np.int64)


def _victims(
    setting: Setting, models: ArmModels, read: Sequence[Intercept], served: ServedArm
) -> Victims:
    by_request = {item.request: item.image for item in served.requests}
    rows = np.array([by_request[item.request] for item in read], dtype=np.int64)
    pool_rows = setting.data.parts.victims
    return Victims(
        requests=np.array([item.request for item in read], dtype=np.int64),
        rows=rows,
        devices=np.array([item.device for item in read], dtype=np.int64),
        device_classes=[setting.fleet.device_class(item.device) for item in read],
        tiers=[models.tiers[int(models.tier_of[item.device])].program.tier for item in read],
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
