"""Scores one attack's reconstructions against the truth, overall and by device class and link."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from testbed.adversaries.base import FloatArray, Inferred, IntArray, Reconstruction
from testbed.core.registries import ATTACKS
from testbed.data.federated import to_unit
from testbed.engine.network.taps import Intercept
from testbed.engine.serving.serve import ServedArm
from testbed.engine.setting.models import ArmModels
from testbed.engine.setting.run_context import RunInputs
from testbed.privacy.intervals import Interval, mean_interval, share_interval
from testbed.privacy.judge import Judge
from testbed.privacy.scores import score
from testbed.results.columns import Record
from testbed.results.figures import SCORE_COLUMNS, SCORES, Score
from testbed.results.schema import (
    AttackOnClass,
    AttackOnLink,
    AttackOnTier,
    AttackScores,
    CurvePoint,
    Extreme,
    InferenceScores,
    Scores,
)
from testbed.scenario.schema import Scenario
from testbed.scenario.threat_model import Knowledge

Columns = dict[str, NDArray[Any]]
Intervals = dict[str, Interval]


@dataclass(frozen=True)
class Victims:
    """The truth behind a tap's intercepts, in their order; no adversary ever sees it.

    Attributes
    ----------
    rows : image of each victim in the data's pool.
    images : in [0, 1], (N, C, H, W).
    pool, pool_index : all victims' images for re-identification, and each victim's place in it.
    persons : who is pictured, or None where the data has no persons.
    """

    requests: IntArray
    rows: IntArray
    devices: IntArray
    device_classes: Sequence[str]
    tiers: Sequence[str]
    links: Sequence[str]
    labels: IntArray
    images: FloatArray
    pool: FloatArray
    pool_index: IntArray
    persons: IntArray | None = None

    @property
    def clusters(self) -> IntArray:
        """What belongs together: images of one person or, without persons, requests of an image."""
        return self.rows if self.persons is None else self.persons


def victims_of(
    inputs: RunInputs, models: ArmModels, read: Sequence[Intercept], served: ServedArm
) -> Victims:
    """Return the victims of these intercepts, in their order."""
    by_request = {item.request: item.image for item in served.requests}
    rows = np.array([by_request[item.request] for item in read], dtype=np.int64)
    pool, pool_rows = inputs.data.pool, inputs.data.parts.victims
    return Victims(
        requests=np.array([item.request for item in read], dtype=np.int64),
        rows=rows,
        devices=np.array([item.device for item in read], dtype=np.int64),
        device_classes=[inputs.fleet.device_class(item.device) for item in read],
        tiers=[models.tiers[int(models.tier_of[item.device])].device_spec.tier for item in read],
        links=[inputs.fleet.link(item.device).name for item in read],
        labels=pool.labels[rows],
        images=to_unit(pool.images[rows]),
        pool=to_unit(pool.images[pool_rows]),
        pool_index=np.searchsorted(pool_rows, rows),
        persons=None if pool.persons is None else pool.persons[rows],
    )


@dataclass(frozen=True)
class ScoredAttack:
    """Scores of an attack, and its rows of attacks.parquet without its identity.

    ``extremes`` are the places of the best, the median and the worst reconstruction by MSE.
    """

    scores: AttackScores
    rows: list[Record]
    mse: float
    extremes: IntArray


def score_attack(
    scenario: Scenario,
    victims: Victims,
    attack: str,
    parts: Mapping[str, Reconstruction],
    judge: Judge | None = None,
    knowledge: Knowledge | None = None,
    holds_weights: bool = False,
) -> ScoredAttack:
    """Score the reconstructions of one attack.

    Parameters
    ----------
    parts : what the attack made of each tier's features, by tier, in the order of the victims.
    judge : names the class of a reconstruction, where there is one.
    knowledge : the adversary's, for the words of its threat model.
    holds_weights : whether it has the weights of every tier that it attacks.
    """
    images = np.concatenate([part.images for part in parts.values()])
    columns, everyone = _columns(images, victims, judge), np.ones(len(images), dtype=bool)

    def on_victims(groups: Sequence[str], name: str) -> dict[str, Any]:
        """Return the number of victims of a group and the scores on them."""
        chosen = np.array(groups) == name
        return {"victims": int(chosen.sum()), **_intervals(scenario, columns, victims, chosen)}

    # The training curve is that of the tier with most victims; by_tier has all of them.
    main = parts[max(parts, key=victims.tiers.count)]
    declared: Any = ATTACKS.entry(attack).factory
    errors, pool_size = columns["mse"], len(victims.pool)
    order = np.argsort(errors, kind="stable")
    best, median, worst = extremes = order[[0, len(order) // 2, -1]]

    def extreme(rank: Literal["best", "median", "worst"], place: int) -> Extreme:
        return Extreme(rank=rank, mse=float(errors[place]), ssim=float(columns["ssim"][place]))

    scores = AttackScores(
        is_anchor=declared.is_anchor,
        rebuilds_images=declared.rebuilds_images,
        learns_from_intercepts=declared.threat.learns_from_intercepts,
        threat_model=declared.threat.words(knowledge),
        conduct=declared.threat.conduct(knowledge, holds_weights),
        victims=len(victims.rows),
        queries=sum(part.queries for part in parts.values()),
        scores=Scores(**_intervals(scenario, columns, victims, everyone)),
        pool_size=pool_size,
        chance_reidentification=1.0 / pool_size,
        body_parameters=main.body_parameters,
        adapter_parameters=main.adapter_parameters,
        best_epoch=main.best_epoch,
        reached_plateau=_reached_plateau(parts),
        training_curve=_curve(main),
        validation_mse=_validation_mse(parts),
        extremes=[extreme("best", best), extreme("median", median), extreme("worst", worst)],
        class_on_originals=_share_named(judge, victims),
        inferred=_inference_scores(joined_inference(parts), victims),
        by_device_class=[
            AttackOnClass(device_class=name, **on_victims(victims.device_classes, name))
            for name in sorted(set(victims.device_classes))
        ],
        by_link=[
            AttackOnLink(link=name, **on_victims(victims.links, name))
            for name in sorted(set(victims.links))
        ],
        by_tier=[
            AttackOnTier(
                tier=name,
                **on_victims(victims.tiers, name),
                best_epoch=part.best_epoch,
                reached_plateau=part.reached_plateau,
                validation_mse=part.validation_mse,
                training_curve=_curve(part),
            )
            for name, part in parts.items()
        ],
    )
    rows = [
        {
            "request": int(victims.requests[index]),
            "victim": int(victims.rows[index]),
            "device": int(victims.devices[index]),
            "device_class": victims.device_classes[index],
            "tier": victims.tiers[index],
            "label": int(victims.labels[index]),
            **{name: columns[name][index].item() for name in SCORE_COLUMNS},
        }
        for index in range(len(victims.rows))
    ]
    return ScoredAttack(scores, rows, float(errors.mean()), extremes)


def score_images(scenario: Scenario, victims: Victims, images: FloatArray) -> Intervals:
    """Return the mean scores of reconstructions (N, C, H, W) over victims, with intervals."""
    columns = _columns(images, victims, None)
    return _intervals(scenario, columns, victims, np.ones(len(images), dtype=bool))


def _columns(images: FloatArray, victims: Victims, judge: Judge | None) -> Columns:
    """Return one value per victim in every column that scores are computed from."""
    columns = score(images, victims.images, victims.pool, victims.pool_index)
    if judge is not None:
        columns["class_recovered"] = judge(images) == victims.labels
    return columns


def _reached_plateau(parts: Mapping[str, Reconstruction]) -> bool | None:
    """Return whether the trainings of all tiers reached their plateau; None where none trains."""
    known = [part.reached_plateau for part in parts.values() if part.reached_plateau is not None]
    return all(known) if known else None


def _validation_mse(parts: Mapping[str, Reconstruction]) -> float | None:
    """Return the validation error, a mean over victims; None where a tier has none."""
    errors = [(part.validation_mse, len(part.images)) for part in parts.values()]
    victims = sum(count for _, count in errors)
    known = [error * count for error, count in errors if error is not None]
    return sum(known) / victims if len(known) == len(errors) and victims else None


def _share_named(judge: Judge | None, victims: Victims) -> float | None:
    """Return the share of victims whose class the judge names from the original image."""
    return None if judge is None else float(np.mean(judge(victims.images) == victims.labels))


def _curve(reconstruction: Reconstruction) -> list[CurvePoint]:
    return [CurvePoint(**asdict(point)) for point in reconstruction.training_curve]


def joined_inference(parts: Mapping[str, Reconstruction]) -> Inferred | None:
    """Join the inferences of all tiers; pairs are within one tier."""
    inferred, start = [], 0
    for part in parts.values():
        if part.inferred is None:
            return None
        # A victim alone in its tier is paired with itself, which counts as wrong.
        alone = np.arange(len(part.images), dtype=np.int64)
        same_person = part.inferred.same_person if len(part.inferred.same_person) else alone
        inferred.append((part.inferred.classes, same_person + start))
        start += len(part.images)
    return Inferred(
        np.concatenate([classes for classes, _ in inferred]),
        np.concatenate([same_person for _, same_person in inferred]),
    )


def _intervals(
    scenario: Scenario, columns: Columns, victims: Victims, chosen: NDArray[np.bool_]
) -> Intervals:
    """Return the mean of each score over the chosen victims, with its interval."""
    resamples, clusters = scenario.evaluation.bootstrap_resamples, victims.clusters[chosen]

    def interval(score: Score) -> Interval:
        values = score.values(columns)[chosen]
        if score.is_share:
            return share_interval(values, clusters)
        return mean_interval(values, resamples, scenario.seed, clusters=clusters)

    return {score.key: interval(score) for score in SCORES if score.column in columns}


def _inference_scores(inferred: Inferred | None, victims: Victims) -> InferenceScores | None:
    """Score the classes and pairs that an attack inferred."""
    if inferred is None:
        return None
    count = len(victims.rows)
    right = (inferred.classes == victims.labels).astype(np.float64)
    same_person, chance = None, None
    persons = victims.persons
    if persons is not None:
        others = (persons[:, None] == persons[None, :]).sum(axis=1) - 1
        known = others > 0  # a person with a single image has no pair
        if known.any():
            itself = inferred.same_person == np.arange(count)
            hits = ((persons[inferred.same_person] == persons) & ~itself).astype(np.float64)
            same_person = share_interval(hits[known], persons[known])
            chance = float((others[known] / (count - 1)).mean())
    return InferenceScores(
        class_=share_interval(right, victims.clusters),
        majority_class=float(np.bincount(victims.labels).max() / count),
        same_person=same_person,
        chance_same_person=chance,
    )
