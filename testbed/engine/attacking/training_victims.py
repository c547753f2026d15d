"""Attacks on training images: features of some rounds, each with the front-end of its round.

An attack is mounted on every round and tier by itself. Devices that train normalise by the
statistics of their batches; the adversary's front-end has those of its own images in such batches.
Where an image was sent more than once, its reconstructions are averaged: that the releases show one
image is granted to the attacker. Error bounds hold for the final front-end, so nothing here is
compared with them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from clients.deployed import DeployedFrontEnd
from clients.device_spec import DeviceSpec, compute_layout
from testbed.adversaries.base import FloatArray, Reconstruction
from testbed.core.compute import as_array, compute_device, on_device
from testbed.core.registries import ATTACKS
from testbed.core.seeds import generator, torch_generator
from testbed.data.federated import to_unit
from testbed.engine.attacking.evidence import (
    AttackJob,
    Mounted,
    TierIntercepts,
    attack_job,
    together,
)
from testbed.engine.attacking.intercepts import holds_weights
from testbed.engine.attacking.scoring import ScoredAttack, Victims, score_attack
from testbed.engine.hosts.backend import Backend
from testbed.engine.network.taps import Intercept, Tap
from testbed.engine.network.training_tap import RoundTier, RoundWeights, SentImage, TrainingTap
from testbed.engine.setting.auxiliary_data import held_images
from testbed.engine.setting.models import ArmModels
from testbed.engine.setting.run_context import RunInputs
from testbed.engine.training.attackers import TrainingAttacks
from testbed.privacy.judge import Judge
from testbed.results.schema import (
    MEAN_IMAGE,
    AttackOnTraining,
    AttackResult,
    Grants,
    TrainingVictim,
)
from testbed.scenario.adversary import Adversary
from testbed.scenario.threat_model import ThreatModel, grants

POOL = 1000
"""Training images that re-identification chooses among, the victims with them."""


@dataclass(frozen=True)
class TrainingJob:
    """An adversary's job on the features of one round and tier, on the scorer's side.

    Attributes
    ----------
    sent : what the features are of, in their order.
    """

    adversary: Adversary
    place: RoundTier
    holds_weights: bool
    sent: Sequence[SentImage]
    job: AttackJob

    def name(self, models: ArmModels) -> str:
        """Return the job's name on the terminal."""
        tier = models.tiers[self.place[1]].device_spec.tier
        which = f", tier '{tier}'" if len(models.used()) > 1 else ""
        return (
            f"adversary '{self.adversary.name}' on arm '{models.arm}'{which}, training images of "
            f"round {self.place[0]}"
        )


def training_jobs(
    inputs: RunInputs,
    models: ArmModels,
    adversary: Adversary,
    tap: Tap,
    attackers: TrainingAttacks | None,
    backend: Backend,
) -> list[TrainingJob]:
    """Return an adversary's jobs on training images: one per round and tier that it can attack."""
    if tap.training is None:
        return []
    jobs = []
    for (server_round, tier), sent in tap.training.sent().items():
        holds = holds_weights(inputs, models, adversary, tier)
        if not adversary.can_attack(holds):
            continue
        images, _ = held_images(adversary, inputs.data, inputs.foreign, inputs.scenario.seed)
        front_end = front_end_in_training(
            models.tiers[tier].device_spec,
            tap.training.front_end((server_round, tier)),
            images.images,
        )
        items = [Intercept(item.device, place, item.features) for place, item in enumerate(sent)]
        read = TierIntercepts(
            _without_replays(adversary),
            tier,
            holds,
            items,
            np.stack([item.features for item in sent]),
            smoothed=None,
        )
        labels = {place: item.label for place, item in enumerate(sent)}
        trained = attackers.memory(adversary.name, tier) if attackers else None
        job = attack_job(inputs, front_end, read, labels, backend, trained)
        jobs.append(TrainingJob(adversary, (server_round, tier), holds, sent, job))
    return jobs


def front_end_in_training(
    device_spec: DeviceSpec, weights: RoundWeights, images: FloatArray
) -> DeployedFrontEnd:
    """Return a round's front-end with the mean batch statistics of the adversary's images.

    Parameters
    ----------
    images : in [0, 1], (N, C, H, W).
    """
    model = device_spec.build()
    model.to(compute_device())
    tensors = {
        name: compute_layout(torch.from_numpy(value))
        for name, value in (*weights.parameters.items(), *weights.statistics.items())
    }
    size, rng = device_spec.batch_size, torch_generator(device_spec.seed, "batch statistics")
    with torch.no_grad():
        for step, start in enumerate(range(0, max(1, len(images) - size + 1), size)):
            model.features(tensors, on_device(images[start : start + size]), rng, step)
    statistics = {name: as_array(tensors[name]) for name in weights.statistics}
    return DeployedFrontEnd(device_spec, weights.parameters, statistics)


def _without_replays(adversary: Adversary) -> Adversary:
    """Return the adversary without replays: a device trains as often as the protocol says."""
    knowledge = adversary.knowledge.model_copy(update={"replays": 1})
    return adversary.model_copy(update={"knowledge": knowledge})


@dataclass(frozen=True)
class ScoredTraining:
    """One attack on training images: its entry of results.json, with what the report shows.

    Attributes
    ----------
    cost : on this host, as in ``AttackCost``.
    originals, images : of the victims, (N, C, H, W).
    """

    entry: AttackOnTraining
    cost: dict[str, Any]
    originals: FloatArray
    images: FloatArray


def score_training(
    inputs: RunInputs,
    models: ArmModels,
    tap: TrainingTap,
    outcomes: Sequence[tuple[TrainingJob, Sequence[Mounted]]],
    judge: Judge | None,
) -> list[ScoredTraining]:
    """Score one adversary's attacks on training images, over all rounds and tiers."""
    jobs = [job for job, _ in outcomes]
    adversary, first = _without_replays(jobs[0].adversary), _first_sent(jobs)
    releases = {
        image: sum(item.image == image for job in jobs for item in job.sent) for image in first
    }
    victims = _victims(inputs, models, tap.victims, first)
    if inputs.data.pool.labels_are_persons:
        judge = None  # it learned from these very images
    holds = all(job.holds_weights for job in jobs)
    auxiliary_images = len(jobs[0].job.evidence.auxiliary.labels)
    found = []
    mean_image_mse: float | None = None
    for number, component in enumerate(jobs[0].job.attacks):
        made = [(job, mounted[number].reconstruction) for job, mounted in outcomes]
        parts = _parts(models, victims, first, made)
        scored = score_attack(
            inputs.scenario, victims, component.name, parts, judge, adversary.knowledge, holds
        )
        if component.name == MEAN_IMAGE:
            mean_image_mse = scored.mse
        declared: Any = ATTACKS.entry(component.name).factory
        threat: ThreatModel = declared.threat
        granted = grants(threat, adversary.knowledge, holds, auxiliary_images)
        words = threat.words(adversary.knowledge, in_training=True)
        result = AttackResult(
            adversary=adversary.name,
            attack=component.name,
            position=adversary.position.words(),
            worse_than_mean_image=mean_image_mse is not None and scored.mse > mean_image_mse,
            replays=1,
            grants=Grants(**granted),
            smoothed=[],
            transfer=[],
            by_amount=None,
            **(dict(scored.scores) | {"threat_model": words}),
            raw_requests=0,
        )
        entry = AttackOnTraining(
            rounds=sorted({job.place[0] for job in jobs}),
            sent_images=tap.seen,
            releases=sum(releases.values()),
            by_victim=_by_victim(scored, releases),
            result=result,
        )
        images = np.concatenate([part.images for part in parts.values()])
        cost = together([mounted[number] for _, mounted in outcomes])
        found.append(ScoredTraining(entry, cost, victims.images, images))
    return found


def _first_sent(jobs: Sequence[TrainingJob]) -> dict[int, tuple[int, SentImage]]:
    """Return the tier and the first release of every image."""
    first: dict[int, tuple[int, SentImage]] = {}
    for job in jobs:
        for item in job.sent:
            first.setdefault(item.image, (job.place[1], item))
    return first


def _victims(
    inputs: RunInputs,
    models: ArmModels,
    drawn: Sequence[int],
    first: Mapping[int, tuple[int, SentImage]],
) -> Victims:
    """Return the truth behind the features: images by the tier of their first release."""
    pool, training = inputs.data.pool, inputs.data.parts.training
    images = sorted((image for image in drawn if image in first), key=lambda image: first[image][0])
    rows = np.array(images, dtype=np.int64)
    devices = [first[image][1].device for image in images]
    order = generator(inputs.scenario.seed, "pool of training images").permutation(len(training))
    others = training[order[:POOL]]
    choices = np.union1d(rows, others[: max(0, POOL - len(rows))])
    return Victims(
        requests=np.full(len(rows), -1, dtype=np.int64),
        rows=rows,
        devices=np.array(devices, dtype=np.int64),
        device_classes=[inputs.fleet.device_class(device) for device in devices],
        tiers=[models.tiers[first[image][0]].device_spec.tier for image in images],
        links=[inputs.fleet.link(device).name for device in devices],
        labels=pool.labels[rows],
        images=to_unit(pool.images[rows]),
        pool=to_unit(pool.images[choices]),
        pool_index=np.searchsorted(choices, rows),
        persons=None if pool.persons is None else pool.persons[rows],
    )


def _parts(
    models: ArmModels,
    victims: Victims,
    first: Mapping[int, tuple[int, SentImage]],
    made: Sequence[tuple[TrainingJob, Reconstruction]],
) -> dict[str, Reconstruction]:
    """Return the mean reconstruction of every victim over its releases, by tier.

    How an attack's training went is that of the last round.
    """
    total: dict[int, FloatArray] = {}
    count: dict[int, int] = {}
    for job, reconstruction in made:
        for item, image in zip(job.sent, reconstruction.images, strict=True):
            total[item.image] = total.get(item.image, np.float32(0.0)) + image
            count[item.image] = count.get(item.image, 0) + 1
    queries = sum(reconstruction.queries for _, reconstruction in made)
    last = {job.place[1]: reconstruction for job, reconstruction in made}
    parts: dict[str, Reconstruction] = {}
    for tier in sorted({of_tier for of_tier, _ in first.values()}):
        own = [image for image in victims.rows.tolist() if first[image][0] == tier]
        images = np.stack([total[image] / np.float32(count[image]) for image in own])
        parts[models.tiers[tier].device_spec.tier] = replace(
            last[tier], images=images, inferred=None, queries=0 if parts else queries
        )
    return parts


def _by_victim(scored: ScoredAttack, releases: Mapping[int, int]) -> list[TrainingVictim]:
    return [
        TrainingVictim(
            victim=row["victim"],
            device=row["device"],
            label=row["label"],
            releases=releases[row["victim"]],
            mse=row["mse"],
            reidentified=row["reidentified"],
        )
        for row in scored.rows
    ]
