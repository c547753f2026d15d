"""Hands each adversary its evidence, runs the attacks in processes of their own, and scores them.

The wall between adversary and truth runs through this file: an ``AttackJob`` holds evidence alone
and is what travels to the adversary's process. Images of victims are looked up afterwards, by
request numbers that never left this side.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from clients.deployed import DeployedFrontEnd
from testbed.adversaries.base import Inferred, Reconstruction
from testbed.adversaries.mounting import mount
from testbed.core.adversary import Adversary
from testbed.data.federated import to_unit
from testbed.engine.auxiliary import auxiliary_classes
from testbed.engine.evidence import ANCHORS, AttackJob, Reading, attack_job, close_oracle
from testbed.engine.floors import ArmFloor, arm_floor, floor_entry
from testbed.engine.positions import colluding_device
from testbed.engine.replays import averaged_intercepts
from testbed.engine.scoring import ScoredAttack, Victims, score_attack
from testbed.engine.serving import ServedArm
from testbed.engine.taps import Intercept, Tap
from testbed.engine.world import Setting, World
from testbed.privacy.judge import Judge
from testbed.privacy.scores import mse

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
    read_nothing : the adversaries whose taps saw no answered request.
    floor : the ``floor`` of the arm's entry.
    seconds : what each attack took on this host; never part of the results.
    """

    entries: list[Row]
    rows: list[Row]
    samples: dict[str, NDArray[np.uint8]]
    read_nothing: list[str]
    floor: Row
    seconds: list[Row]


def attack_arm(
    world: World,
    deployed: DeployedFrontEnd,
    taps: Sequence[Tap],
    served: ServedArm,
    front_end_macs: int,
) -> AttackResults:
    """Mount every adversary's attacks on one arm's intercepts, and score the reconstructions."""
    setting, arm = world.setting, deployed.program.arm
    floor = arm_floor(setting, deployed, front_end_macs)
    everybody = [
        (adversary, _attacked(setting, adversary, tap, served))
        for adversary, tap in zip(setting.scenario.adversaries, taps, strict=True)
    ]
    read_raw = {
        adversary.name: sum(1 for request in tap.raw_requests if request in served.answers)
        for adversary, tap in zip(setting.scenario.adversaries, taps, strict=True)
    }
    readings = [
        _reading(setting, deployed, adversary, items, served, floor)
        for adversary, items in everybody
        if items
    ]
    jobs = [
        attack_job(setting, deployed, reading, served.answers, world.backend)
        for reading in readings
    ]
    outcomes = world.backend.run_jobs(
        [
            (f"adversary '{reading.adversary.name}' on arm '{arm}'", run_attacks, (job,))
            for reading, job in zip(readings, jobs, strict=True)
        ],
        lambda name: world.progress.advance(1, name),
    )
    replays = [reading.adversary.knowledge.replays for reading in readings]
    results = AttackResults(
        *([], [], {}),
        [item.name for item, read in everybody if not read],
        floor_entry(floor, replays or [1]),
        [],
    )
    judge = make_judge(setting)
    for reading, job, mounted in zip(readings, jobs, outcomes, strict=True):
        close_oracle(job, world.backend)
        _score_adversary(setting, arm, reading, served, job, mounted, judge, results)
    for entry in results.entries:
        entry["raw_requests"] = read_raw[entry["adversary"]]
    return results


def _attacked(
    setting: Setting, adversary: Adversary, tap: Tap, served: ServedArm
) -> list[Intercept]:
    """Return the answered intercepts of victims that the adversary is to be scored on."""
    seed, pool = setting.scenario.seed, setting.data.pool
    own = colluding_device(adversary.name, adversary.position, len(setting.fleet), seed)
    classes = auxiliary_classes(adversary, pool.num_classes, seed)
    images = {item.request: item.image for item in served.requests}
    return [
        item
        for item in tap.intercepts
        if item.request in served.answers
        and item.device != own
        and (classes is None or int(pool.labels[images[item.request]]) not in classes)
    ]


def _reading(
    setting: Setting,
    deployed: DeployedFrontEnd,
    adversary: Adversary,
    items: Sequence[Intercept],
    served: ServedArm,
    floor: ArmFloor,
) -> Reading:
    features = np.stack([item.features for item in items])
    replays = adversary.knowledge.replays
    if replays > 1:
        truth = _victims(setting, items, served).images
        features = averaged_intercepts(deployed, truth, features, replays)
    # An attack that learns from its intercepts must not learn from what never crossed the wire.
    compared = adversary.rebuilds_images and not adversary.threat.learns_from_intercepts
    smoothed = floor.smoothed_victims(replays) if compared else None
    return Reading(adversary, items, features, smoothed)


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
    arm: str,
    reading: Reading,
    served: ServedArm,
    job: AttackJob,
    mounted: Sequence[Mounted],
    judge: Judge | None,
    results: AttackResults,
) -> None:
    adversary, count = reading.adversary, len(reading.items)
    victims = _victims(setting, reading.items, served)
    shown = np.arange(min(setting.scenario.evaluation.reconstructions_shown, count))
    results.samples[f"original/{arm}/{adversary.name}"] = _pixels(victims.images[shown])
    replays = adversary.knowledge.replays
    scored: dict[str, ScoredAttack] = {}
    for component, attack in zip(job.attacks, mounted, strict=True):
        found, smoothed = _parted(attack.reconstruction, count)
        made = score_attack(setting.scenario, victims, component.name, found, judge, replays)
        scored[component.name] = made
        mean = scored.get(ANCHORS[0].name)
        facts = {"arm": arm, "adversary": adversary.name, "attack": component.name}
        results.entries.append(
            {
                "adversary": adversary.name,
                "attack": component.name,
                "position": adversary.position.words(),
                "worse_than_mean_image": mean is not None and made.mse > mean.mse,
                "replays": replays,
                "smoothed": _smoothed_scores(reading, smoothed),
                **made.entry,
            }
        )
        results.rows.extend({**facts, **row} for row in made.rows)
        results.seconds.append({**facts, "cpu_s": attack.cpu_s})
        key = f"{arm}/{adversary.name}/{component.name}"
        results.samples[key] = _pixels(found.images[shown])
        pairs = np.concatenate([victims.images[made.extremes], found.images[made.extremes]])
        results.samples[f"extremes/{key}"] = _pixels(pairs)


def _parted(found: Reconstruction, count: int) -> tuple[Reconstruction, NDArray[np.float32]]:
    """Part what was made of real intercepts from what was made of smoothed victims."""
    said = found.inferred
    if said is not None:
        said = Inferred(said.classes[:count], said.companions[:count])
    return replace(found, images=found.images[:count], inferred=said), found.images[count:]


def _smoothed_scores(reading: Reading, images: NDArray[np.float32]) -> Row | None:
    """Return the error on smoothed victims, with its standard error; a floor holds for it."""
    if reading.smoothed is None:
        return None
    errors = mse(images, reading.smoothed.images)
    error = float(errors.std(ddof=1) / len(errors) ** 0.5) if len(errors) > 1 else None
    return {"mse": float(errors.mean()), "standard_error": error, "images": len(errors)}


def _victims(setting: Setting, read: Sequence[Intercept], served: ServedArm) -> Victims:
    by_request = {item.request: item.image for item in served.requests}
    rows = np.array([by_request[item.request] for item in read], dtype=np.int64)
    pool, pool_rows = setting.data.pool, setting.data.parts.victims
    return Victims(
        requests=np.array([item.request for item in read], dtype=np.int64),
        rows=rows,
        devices=np.array([item.device for item in read], dtype=np.int64),
        device_classes=[setting.fleet.device_class(item.device) for item in read],
        links=[setting.fleet.link(item.device).name for item in read],
        labels=pool.labels[rows],
        images=to_unit(pool.images[rows]),
        pool=to_unit(pool.images[pool_rows]),
        pool_index=np.searchsorted(pool_rows, rows),
        persons=None if pool.persons is None else pool.persons[rows],
    )


def _pixels(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.rint(images * 255.0).clip(0, 255).astype(np.uint8)
    return pixels
