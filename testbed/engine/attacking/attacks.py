"""Runs the attacks of every adversary as jobs of the backend, and scores the reconstructions.

This file separates adversaries from the truth: a job gets an ``AttackJob``, which holds evidence
only, and runs in its own process if the backend has any. The images of victims are looked up
afterwards, by request numbers that no job gets.
"""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from testbed.adversaries.base import Inferred, Reconstruction
from testbed.adversaries.mounting import mount
from testbed.core.ahead import import_ahead
from testbed.core.process import PEAK_MEMORY, trim_malloc
from testbed.core.registries import ATTACKS
from testbed.data.federated import to_unit
from testbed.engine.attacking.bound_check import made_of_own, smoothed_scores
from testbed.engine.attacking.budget_curve import amount_curve, partial_job
from testbed.engine.attacking.error_bounds import arm_error_bound, bound_result
from testbed.engine.attacking.evidence import (
    AttackJob,
    Mounted,
    Outcome,
    TierIntercepts,
    attack_job,
    close_oracle,
    query_access,
    together,
)
from testbed.engine.attacking.intercepts import read_by_tier
from testbed.engine.attacking.scoring import score_attack, victims_of
from testbed.engine.attacking.training_victims import (
    TrainingJob,
    score_training,
    training_jobs,
)
from testbed.engine.attacking.transfer import aimed_at, targets, transfer_matrix
from testbed.engine.network.taps import Tap
from testbed.engine.serving.serve import ServedArm
from testbed.engine.setting.models import ArmModels
from testbed.engine.setting.run_context import RunContext, RunInputs
from testbed.engine.training.attackers import attacks_arm
from testbed.engine.training.fleet import TrainedArm
from testbed.privacy.judge import LIBRARIES as JUDGE_LIBRARIES
from testbed.privacy.judge import Judge
from testbed.results.columns import Record
from testbed.results.host_facts import AttackCost
from testbed.results.schema import (
    MEAN_IMAGE,
    AttackOnTraining,
    AttackResult,
    BoundCheck,
    ErrorBound,
    Grants,
    training_samples,
)
from testbed.scenario.threat_model import grants


def run_attacks(job: AttackJob) -> list[Mounted]:
    """Mount the attacks of one adversary, one after another, in one thread of numpy's too."""
    mounted = []
    trim_malloc()  # free memory would hide what an attack takes
    with threadpool_limits(1, user_api="blas"):
        for attack in job.attacks:
            before, held_mb = time.process_time(), PEAK_MEMORY.begin()
            reconstruction = mount(attack.name, attack.options, job.evidence, job.seed)
            cpu_s = time.process_time() - before
            mounted.append(Mounted(reconstruction, cpu_s, PEAK_MEMORY.above(held_mb)))
    return mounted


@dataclass(frozen=True)
class AttackResults:
    """Results of the attacks on one arm.

    Attributes
    ----------
    entries : of results.json.
    rows : of attacks.parquet.
    samples : images for the report.
    read_nothing : the adversaries whose taps saw no answered request that they could attack.
    error_bounds : one per tier.
    costs : of each attack on this host; never part of the results.
    on_training : entries of the attacks on training images.
    """

    entries: list[AttackResult] = field(default_factory=list)
    rows: list[Record] = field(default_factory=list)
    samples: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    read_nothing: list[str] = field(default_factory=list)
    error_bounds: list[ErrorBound] = field(default_factory=list)
    costs: list[AttackCost] = field(default_factory=list)
    on_training: list[AttackOnTraining] = field(default_factory=list)


def attack_arm(
    run_context: RunContext,
    arm: TrainedArm,
    taps: Sequence[Tap],
    served: ServedArm,
    earlier: Sequence[AttackCost] = (),
) -> AttackResults:
    """Mount every adversary's attacks on one arm's intercepts, and score the reconstructions.

    Tiers have different front-ends, hence features of different shape and meaning: an adversary
    attacks each tier separately.

    Parameters
    ----------
    earlier : what attacks on earlier arms cost; the longest start first.
    """
    run_context.backend.free_memory()  # adversaries' processes need what training leaves
    inputs, models = run_context.inputs, arm.models
    own_arm = next(item for item in inputs.scenario.arms if item.name == models.arm)
    adversaries = [item for item in inputs.scenario.adversaries if attacks_arm(item, own_arm)]
    by_name = {tap.name: tap for tap in taps}
    deployed = {tier: arm.deployed(tier) for tier in models.used()}
    error_bounds = {
        tier: arm_error_bound(inputs, front_end, models.tiers[tier].edge_stats.macs)
        for tier, front_end in deployed.items()
    }
    read = [
        tier_intercepts
        for adversary in adversaries
        for tier_intercepts in read_by_tier(
            inputs, models, adversary, by_name[adversary.name], served, (deployed, error_bounds)
        )
    ]
    tiers_read = [item for item in read if item.mountable]
    jobs: list[tuple[TierIntercepts, float, AttackJob]] = []
    for item in tiers_read:
        attackers, answers = arm.training_attacks, served.answers
        trained = attackers.memory(item.adversary.name, item.tier) if attackers else None
        job = attack_job(inputs, deployed[item.tier], item, answers, run_context.backend, trained)
        jobs.append((item, 1.0, aimed_at(job, targets(item, read))))
    for item in tiers_read:
        for share in item.adversary.curve:
            part = (inputs, deployed[item.tier], item, share, served, run_context.backend)
            jobs.append((item, share, partial_job(*part)))
    in_training = [
        job
        for adversary in adversaries
        for job in training_jobs(
            *(inputs, models, adversary, by_name[adversary.name]),
            *(arm.training_attacks, run_context.backend),
        )
    ]
    work = [(item.adversary.name, share, job) for item, share, job in jobs]
    work += [(item.adversary.name, 1.0, item.job) for item in in_training]
    left = Counter(name for name, _, _ in work)
    judge = cache(lambda: make_judge(inputs))

    def on_done(job_name: str) -> None:
        """Count an adversary as done with its last job."""
        adversary = job_name.split("'")[1]
        left[adversary] -= 1
        run_context.progress.advance(0 if left[adversary] else 1, job_name)
        if left.total() < run_context.backend.hosts:
            judge()  # no job waits for this process, and a core has become free

    order = longest_first([(name, share) for name, share, _ in work], earlier)
    names = [_job_name(models, item, share) for item, share, _ in jobs]
    names += [item.name(models) for item in in_training]
    calls = [(name, run_attacks, (job,)) for name, (_, _, job) in zip(names, work, strict=True)]
    import_ahead(*JUDGE_LIBRARIES)  # while this process waits for its adversaries
    found = run_context.backend.run_jobs(
        [calls[place] for place in order],
        on_done,
        [query_access(work[place][2]) for place in order],
    )
    mounted = dict(zip(order, found, strict=True))
    for _, _, job in work:
        close_oracle(job, run_context.backend)
    outcomes = [Outcome(*job, mounted[place]) for place, job in enumerate(jobs)]
    of_training = [(job, mounted[len(jobs) + place]) for place, job in enumerate(in_training)]
    replays = [item.adversary.knowledge.replays for item in tiers_read] or [1]
    results = AttackResults(
        read_nothing=[item.name for item in adversaries if item.name not in left],
        error_bounds=[
            bound_result(models.tiers[tier].device_spec.tier, bound, replays)
            for tier, bound in error_bounds.items()
        ],
    )
    for adversary in adversaries:
        trained_on = [pair for pair in of_training if pair[0].adversary.name == adversary.name]
        if trained_on:
            tap = by_name[adversary.name]
            _add_training(inputs, models, tap, trained_on, judge(), results)
        own = [item for item in outcomes if item.tier_intercepts.adversary.name == adversary.name]
        if not own:
            continue
        whole = [outcome for outcome in own if outcome.share == 1.0]
        raw = by_name[adversary.name].raw_requests
        raw_requests = sum(1 for request in raw if request in served.answers)
        _score_adversary(inputs, models, whole, served, judge(), raw_requests, results)
        reconstructions = {item.tier_intercepts.tier: item.reconstruction for item in whole}
        intercepts = [item for item in read if item.adversary.name == adversary.name]
        # The last entry is that of the adversary's own attack, which is mounted after the anchors.
        results.entries[-1] = results.entries[-1].model_copy(
            update={
                "transfer": transfer_matrix(inputs, models, intercepts, reconstructions, served),
                "by_amount": amount_curve(inputs, models, own, served),
            }
        )
    return results


def longest_first(jobs: Sequence[tuple[str, float]], earlier: Sequence[AttackCost]) -> list[int]:
    """Return the places of jobs, those that took longest on earlier arms first.

    A long job that starts last would leave the other processes idle. No result depends on it.

    Parameters
    ----------
    jobs : adversary and share of the amount that it learns from.
    """
    taken: dict[str, float] = {}
    for cost in earlier:
        taken[cost.adversary] = taken.get(cost.adversary, 0.0) + (cost.cpu_s or 0.0)
    # An adversary that attacked no earlier arm may take any time, so it starts first.
    expected = [share * taken[name] if name in taken else math.inf for name, share in jobs]
    return sorted(range(len(jobs)), key=lambda place: -expected[place])


def _job_name(models: ArmModels, item: TierIntercepts, share: float) -> str:
    tier = f", tier '{models.tiers[item.tier].device_spec.tier}'" if len(models.used()) > 1 else ""
    part = f", with {share:g} of the amount" if share < 1.0 else ""
    return f"adversary '{item.adversary.name}' on arm '{models.arm}'{tier}{part}"


def make_judge(inputs: RunInputs) -> Judge | None:
    """Return the scorer's classifier; None where its images show fewer than two classes.

    It learns from the auxiliary images, which no front-end was trained on. Where the classes are
    persons, these show no enrolled person, so the training images are used.
    """
    data = inputs.data
    rows = data.parts.training if data.pool.labels_are_persons else data.parts.auxiliary
    labels = data.pool.labels[rows]
    if len(np.unique(labels)) < 2:
        return None
    return Judge(to_unit(data.pool.images[rows]), labels)


def _score_adversary(
    inputs: RunInputs,
    models: ArmModels,
    outcomes: Sequence[Outcome],
    served: ServedArm,
    judge: Judge | None,
    raw_requests: int,
    results: AttackResults,
) -> None:
    """Score one adversary's attacks over all tiers and on each tier, and add them to the results.

    Parameters
    ----------
    outcomes : of the adversary's attacks, one per tier.
    raw_requests : raw images that the adversary read.
    """
    arm, adversary = models.arm, outcomes[0].tier_intercepts.adversary
    knowledge, tiers_read = adversary.knowledge, [item.tier_intercepts for item in outcomes]
    victims = victims_of(inputs, models, [i for tier in tiers_read for i in tier.items], served)
    shown = _shown([len(tier.items) for tier in tiers_read], inputs)
    results.samples[f"original/{arm}/{adversary.name}"] = _pixels(victims.images[shown])
    holds_all = all(tier.holds_weights for tier in tiers_read)
    auxiliary_images = len(outcomes[0].job.evidence.auxiliary.labels)
    mean_image_mse: float | None = None
    for number, component in enumerate(outcomes[0].job.attacks):
        parts: dict[str, Reconstruction] = {}
        smoothed: list[BoundCheck] = []
        for outcome in outcomes:
            tier_intercepts = outcome.tier_intercepts
            tier = models.tiers[tier_intercepts.tier].device_spec.tier
            reconstruction = outcome.mounted[number].reconstruction
            parts[tier] = _of_intercepts(reconstruction, len(tier_intercepts.items))
            smoothed += smoothed_scores(
                tier, tier_intercepts.smoothed, made_of_own(tier_intercepts, reconstruction)
            )
        scored = score_attack(
            inputs.scenario, victims, component.name, parts, judge, knowledge, holds_all
        )
        if component.name == MEAN_IMAGE:
            mean_image_mse = scored.mse
        declared: Any = ATTACKS.entry(component.name).factory
        granted = grants(declared.threat, knowledge, holds_all, auxiliary_images)
        results.entries.append(
            AttackResult(
                adversary=adversary.name,
                attack=component.name,
                position=adversary.position.words(),
                worse_than_mean_image=mean_image_mse is not None and scored.mse > mean_image_mse,
                replays=knowledge.replays,
                grants=Grants(**granted),
                smoothed=smoothed,
                transfer=[],
                by_amount=None,
                **dict(scored.scores),
                raw_requests=raw_requests,
            )
        )
        facts: dict[str, Any] = {
            "arm": arm,
            "adversary": adversary.name,
            "attack": component.name,
        }
        results.rows.extend({**facts, **row} for row in scored.rows)
        cost = together([outcome.mounted[number] for outcome in outcomes])
        results.costs.append(AttackCost(**facts, **cost))
        images = np.concatenate([part.images for part in parts.values()])
        key = f"{arm}/{adversary.name}/{component.name}"
        results.samples[key] = _pixels(images[shown])
        pairs = np.concatenate([victims.images[scored.extremes], images[scored.extremes]])
        results.samples[f"extremes/{key}"] = _pixels(pairs)


def _add_training(
    inputs: RunInputs,
    models: ArmModels,
    tap: Tap,
    outcomes: Sequence[tuple[TrainingJob, Sequence[Mounted]]],
    judge: Judge | None,
    results: AttackResults,
) -> None:
    """Score one adversary's attacks on training images, and add them to the results."""
    assert tap.training is not None
    shown = inputs.scenario.evaluation.reconstructions_shown
    for scored in score_training(inputs, models, tap.training, outcomes, judge):
        entry, arm = scored.entry.result, models.arm
        results.on_training.append(scored.entry)
        results.costs.append(
            AttackCost(
                arm=arm,
                adversary=entry.adversary,
                attack=entry.attack,
                on_training=True,
                **scored.cost,
            )
        )
        original, made = training_samples(arm, entry)
        results.samples[original] = _pixels(scored.originals[:shown])
        results.samples[made] = _pixels(scored.images[:shown])


def _shown(sizes: Sequence[int], inputs: RunInputs) -> NDArray[np.int64]:
    """Choose the victims that the report shows, from every tier in turn."""
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    wanted = min(inputs.scenario.evaluation.reconstructions_shown, sum(sizes))
    turns = [
        (place, int(start) + place)
        for start, size in zip(starts, sizes, strict=True)
        for place in range(size)
    ]
    chosen = sorted(index for _, index in sorted(turns)[:wanted])
    return np.array(chosen, dtype=np.int64)


def _of_intercepts(reconstruction: Reconstruction, count: int) -> Reconstruction:
    """Return what was made of real intercepts, without what was made of smoothed victims."""
    inferred = reconstruction.inferred
    if inferred is not None:
        inferred = Inferred(inferred.classes[:count], inferred.same_person[:count])
    return replace(reconstruction, images=reconstruction.images[:count], inferred=inferred)


def _pixels(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.rint(images * 255.0).clip(0, 255).astype(np.uint8)
    return pixels
