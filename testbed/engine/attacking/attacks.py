"""Hands each adversary its evidence, runs the attacks as jobs of the backend, and scores them.

The wall between adversary and truth runs through this file: an ``AttackJob`` holds evidence alone
and is all that an adversary's job is handed, in a process of its own where the backend has any.
Images of victims are looked up afterwards, by request numbers that never left this side.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from testbed.adversaries.base import Inferred, Reconstruction
from testbed.adversaries.mounting import mount
from testbed.core.registries import ATTACKS
from testbed.data.federated import to_unit
from testbed.engine.attacking.budget_curve import PartialOutcome, amount_entry, partial_job
from testbed.engine.attacking.evidence import (
    ANCHORS,
    AttackJob,
    Reading,
    attack_job,
    close_oracle,
    query_access,
)
from testbed.engine.attacking.floors import arm_floor, floor_entry
from testbed.engine.attacking.intercepts import read_by_tier
from testbed.engine.attacking.on_smoothed import made_of_own, smoothed_scores
from testbed.engine.attacking.scoring import ScoredAttack, score_attack
from testbed.engine.attacking.transfer import aimed_at, targets, transfer_rows
from testbed.engine.attacking.victims import victims_of
from testbed.engine.network.taps import Tap
from testbed.engine.serving.serve import ServedArm
from testbed.engine.setting.models import ArmModels
from testbed.engine.setting.world import Setting, World
from testbed.engine.training.attackers import attacks_arm
from testbed.engine.training.fleet import TrainedArm
from testbed.privacy.judge import Judge
from testbed.scenario.adversary import Adversary
from testbed.scenario.grants import grants

Row = dict[str, Any]


@dataclass(frozen=True)
class Mounted:
    """An attack's reconstructions, and the processor seconds that it took on this host."""

    reconstruction: Reconstruction
    cpu_s: float


def run_attacks(job: AttackJob) -> list[Mounted]:
    """Mount the attacks of one adversary, one after another, in one thread of numpy's too."""
    mounted = []
    with threadpool_limits(1, user_api="blas"):
        for item in job.attacks:
            before = time.process_time()
            found = mount(item.name, item.options, job.evidence, job.seed)
            mounted.append(Mounted(found, time.process_time() - before))
    return mounted


@dataclass(frozen=True)
class AttackResults:
    """Attack entries of results.json, rows of attacks.parquet, and images for the report.

    Attributes
    ----------
    read_nothing : the adversaries whose taps saw no answered request that they could attack.
    floors : the ``floors`` of the arm's entry, one per tier.
    seconds : what each attack took on this host; never part of the results.
    """

    entries: list[Row]
    rows: list[Row]
    samples: dict[str, NDArray[np.uint8]]
    read_nothing: list[str]
    floors: list[Row]
    seconds: list[Row]


def attack_arm(
    world: World, arm: TrainedArm, taps: Sequence[Tap], served: ServedArm
) -> AttackResults:
    """Mount every adversary's attacks on one arm's intercepts, and score the reconstructions.

    Tiers differ in front-end, hence in the shape and meaning of features: an adversary, who sees
    which is which, attacks each of them apart.
    """
    setting, models = world.setting, arm.models
    own_arm = next(item for item in setting.scenario.arms if item.name == models.arm)
    adversaries = [item for item in setting.scenario.adversaries if attacks_arm(item, own_arm)]
    by_name = {tap.name: tap for tap in taps}
    deployed = {tier: arm.deployed(tier) for tier in models.used()}
    floors = {
        tier: arm_floor(setting, front_end, models.tiers[tier].edge_stats.macs)
        for tier, front_end in deployed.items()
    }
    read = [
        reading
        for adversary in adversaries
        for reading in read_by_tier(
            setting, models, adversary, by_name[adversary.name], served, (deployed, floors)
        )
    ]
    readings = [item for item in read if item.mountable]
    jobs = [
        attack_job(
            *(setting, deployed[item.tier], item, served.answers, world.backend),
            arm.intrusion.memory(item.adversary.name, item.tier) if arm.intrusion else None,
        )
        for item in readings
    ]
    jobs = [aimed_at(job, targets(item, read)) for item, job in zip(readings, jobs, strict=True)]
    partial = [
        (item, share, partial_job(setting, deployed[item.tier], item, share, served, world.backend))
        for item in readings
        for share in item.adversary.curve
    ]
    left = Counter(item.adversary.name for item in (*readings, *(item for item, _, _ in partial)))

    def on_done(job_name: str) -> None:
        """Count an adversary as done with its last tier."""
        adversary = job_name.split("'")[1]
        left[adversary] -= 1
        world.progress.advance(0 if left[adversary] else 1, job_name)

    outcomes = world.backend.run_jobs(
        [
            (_job_name(models, item), run_attacks, (job,))
            for item, job in zip(readings, jobs, strict=True)
        ]
        + [
            (f"{_job_name(models, item)}, with {share:g} of the amount", run_attacks, (job,))
            for item, share, job in partial
        ],
        on_done,
        [query_access(job) for job in [*jobs, *(job for _, _, job in partial)]],
    )
    replays = [item.adversary.knowledge.replays for item in readings] or [1]
    results = AttackResults(
        *([], [], {}),
        [item.name for item in adversaries if item.name not in left],
        [
            {"tier": models.tiers[tier].program.tier, **floor_entry(floor, replays)}
            for tier, floor in floors.items()
        ],
        [],
    )
    judge = make_judge(setting)
    for job in (*jobs, *(job for _, _, job in partial)):
        close_oracle(job, world.backend)
    for adversary in adversaries:
        own = [
            (item, job, mounted)
            for item, job, mounted in zip(readings, jobs, outcomes[: len(jobs)], strict=True)
            if item.adversary.name == adversary.name
        ]
        if not own:
            continue
        entry = _score_adversary(setting, models, adversary, own, served, judge, results)
        theirs = [item for item in read if item.adversary.name == adversary.name]
        found = {reading.tier: mounted[-1].reconstruction for reading, _, mounted in own}
        entry["transfer"] = transfer_rows(setting, models, theirs, found, served)
        points = [
            PartialOutcome(item, share, job.evidence, mounted[-1].reconstruction)
            for (item, share, job), mounted in zip(partial, outcomes[len(jobs) :], strict=True)
            if item.adversary.name == adversary.name
        ]
        whole = [
            PartialOutcome(reading, 1.0, job.evidence, found[reading.tier])
            for reading, job, _ in own
        ]
        entry["by_amount"] = amount_entry(setting, models, [*points, *whole], served)
    for entry in results.entries:
        raw = by_name[entry["adversary"]].raw_requests
        entry["raw_requests"] = sum(1 for item in raw if item in served.answers)
    return results


def _job_name(models: ArmModels, item: Reading) -> str:
    tier = f", tier '{models.tiers[item.tier].program.tier}'" if len(models.used()) > 1 else ""
    return f"adversary '{item.adversary.name}' on arm '{models.arm}'{tier}"


def make_judge(setting: Setting) -> Judge | None:
    """Return the scorer's classifier; None where its images show fewer than two classes.

    It learns from the auxiliary images, which no front-end was trained on. Where the classes are
    persons, those show nobody who is enrolled: the training images take their place.
    """
    data = setting.data
    rows = data.parts.training if data.pool.labels_are_persons else data.parts.auxiliary
    labels = data.pool.labels[rows]
    if len(np.unique(labels)) < 2:
        return None
    return Judge(to_unit(data.pool.images[rows]), labels)


def _score_adversary(
    setting: Setting,
    models: ArmModels,
    adversary: Adversary,
    own: Sequence[tuple[Reading, AttackJob, list[Mounted]]],
    served: ServedArm,
    judge: Judge | None,
    results: AttackResults,
) -> Row:
    """Score one adversary's attacks over all tiers, and each tier by itself.

    Returns
    -------
    The entry of its own attack, which is mounted after the anchors.
    """
    arm, knowledge = models.arm, adversary.knowledge
    victims = victims_of(
        setting, models, [x for reading, _, _ in own for x in reading.items], served
    )
    shown = _shown([len(reading.items) for reading, _, _ in own], setting)
    results.samples[f"original/{arm}/{adversary.name}"] = _pixels(victims.images[shown])
    scored: dict[str, ScoredAttack] = {}
    for number, component in enumerate(own[0][1].attacks):
        parts: dict[str, Reconstruction] = {}
        smoothed: list[Row] = []
        for reading, _, mounted in own:
            tier = models.tiers[reading.tier].program.tier
            found = mounted[number].reconstruction
            parts[tier] = _of_intercepts(found, len(reading.items))
            smoothed += smoothed_scores(tier, reading.smoothed, made_of_own(reading, found))
        holds_all = all(reading.holds_weights for reading, _, _ in own)
        made = score_attack(
            setting.scenario, victims, component.name, parts, judge, knowledge, holds_all
        )
        scored[component.name] = made
        mean = scored.get(ANCHORS[0].name)
        declared: Any = ATTACKS.entry(component.name).factory
        held = len(own[0][1].evidence.auxiliary.labels)
        facts = {"arm": arm, "adversary": adversary.name, "attack": component.name}
        results.entries.append(
            {
                "adversary": adversary.name,
                "attack": component.name,
                "position": adversary.position.words(),
                "worse_than_mean_image": mean is not None and made.mse > mean.mse,
                "replays": knowledge.replays,
                "grants": grants(declared.threat, knowledge, holds_all, held),
                "smoothed": smoothed,
                "transfer": [],
                "by_amount": None,
                **made.entry,
            }
        )
        results.rows.extend({**facts, **row} for row in made.rows)
        took = sum(mounted[number].cpu_s for _, _, mounted in own)
        results.seconds.append({**facts, "cpu_s": took})
        images = np.concatenate([part.images for part in parts.values()])
        key = f"{arm}/{adversary.name}/{component.name}"
        results.samples[key] = _pixels(images[shown])
        pairs = np.concatenate([victims.images[made.extremes], images[made.extremes]])
        results.samples[f"extremes/{key}"] = _pixels(pairs)
    return results.entries[-1]


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


def _of_intercepts(found: Reconstruction, count: int) -> Reconstruction:
    """Return what was made of real intercepts, without what was made of smoothed victims."""
    said = found.inferred
    if said is not None:
        said = Inferred(said.classes[:count], said.companions[:count])
    return replace(found, images=found.images[:count], inferred=said)


def _pixels(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.rint(images * 255.0).clip(0, 255).astype(np.uint8)
    return pixels
