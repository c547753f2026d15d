"""Scores one attack's reconstructions against the truth, overall and by device class and link."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.adversaries.base import FloatArray, Inferred, IntArray, Reconstruction
from testbed.core.registries import ATTACKS
from testbed.data.federated import to_unit
from testbed.engine.network.taps import Intercept
from testbed.engine.serving.serve import ServedArm
from testbed.engine.setting.models import ArmModels
from testbed.engine.setting.run_context import RunInputs
from testbed.privacy.intervals import bootstrap_interval
from testbed.privacy.judge import Judge
from testbed.privacy.scores import score
from testbed.results.figures import SCORE_COLUMNS, SCORES
from testbed.scenario.schema import Scenario
from testbed.scenario.threat_model import Knowledge

Row = dict[str, Any]
Columns = dict[str, NDArray[Any]]


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
    """The attack's entry of results.json without its identity, and its rows of attacks.parquet.

    ``extremes`` are the places of the best, the median and the worst reconstruction by MSE.
    """

    entry: Row
    rows: list[Row]
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
    columns = _columns(images, victims, judge)
    tiers = np.array(victims.tiers)
    # The curve of an attack is that of the tier with most victims; by_tier has all of them.
    largest = max(parts, key=lambda name: int((tiers == name).sum()))
    reconstruction = parts[largest]
    everyone = np.ones(len(victims.rows), dtype=bool)
    declared: Any = ATTACKS.entry(attack).factory
    errors, pool_size = columns["mse"], len(victims.pool)
    order = np.argsort(errors, kind="stable")
    extremes = order[[0, len(order) // 2, -1]]
    entry = {
        "is_anchor": declared.is_anchor,
        "rebuilds_images": declared.rebuilds_images,
        "learns_from_intercepts": declared.threat.learns_from_intercepts,
        "threat_model": declared.threat.words(knowledge),
        "conduct": declared.threat.conduct(knowledge, holds_weights),
        "victims": len(victims.rows),
        "queries": sum(part.queries for part in parts.values()),
        "scores": _intervals(scenario, columns, everyone),
        "pool_size": pool_size,
        "chance_reidentification": 1.0 / pool_size,
        "body_parameters": reconstruction.body_parameters,
        "adapter_parameters": reconstruction.adapter_parameters,
        "best_epoch": reconstruction.best_epoch,
        "reached_plateau": _reached_plateau(parts),
        "curve": [asdict(point) for point in reconstruction.training_curve],
        "extremes": [
            {"rank": rank, "mse": float(errors[place]), "ssim": float(columns["ssim"][place])}
            for rank, place in zip(("best", "median", "worst"), extremes, strict=True)
        ],
        "class_on_originals": _share_named(judge, victims),
        "inferred": _inferred(scenario, joined_inference(parts), victims),
        "by_device_class": _by("device_class", victims.device_classes, scenario, columns),
        "by_link": _by("link", victims.links, scenario, columns),
        "by_tier": [
            {
                **_by("tier", victims.tiers, scenario, columns, only=name)[0],
                "best_epoch": part.best_epoch,
                "reached_plateau": part.reached_plateau,
                "curve": [asdict(point) for point in part.training_curve],
            }
            for name, part in parts.items()
        ],
    }
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
    return ScoredAttack(entry, rows, float(errors.mean()), extremes)


def score_images(scenario: Scenario, victims: Victims, images: FloatArray) -> Row:
    """Return the mean scores of reconstructions (N, C, H, W) over victims, with intervals."""
    columns = _columns(images, victims, None)
    return _intervals(scenario, columns, np.ones(len(images), dtype=bool))


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


def _share_named(judge: Judge | None, victims: Victims) -> float | None:
    """Return the share of victims whose class the judge names from the original image."""
    return None if judge is None else float(np.mean(judge(victims.images) == victims.labels))


def _by(
    key: str,
    groups: Sequence[str],
    scenario: Scenario,
    columns: Columns,
    only: str | None = None,
) -> list[Row]:
    """Return the scores of each group of victims, or of one."""
    names = np.array(groups)
    entries = []
    for name in sorted(set(groups)) if only is None else [only]:
        own = names == name
        scores = _intervals(scenario, columns, own)
        entries.append({key: name, "victims": int(own.sum()), **scores})
    return entries


def joined_inference(parts: Mapping[str, Reconstruction]) -> Inferred | None:
    """Join the inferences of all tiers; pairs are within one tier."""
    found, start = [], 0
    for part in parts.values():
        if part.inferred is None:
            return None
        # A victim alone in its tier is paired with itself, which counts as wrong.
        alone = np.arange(len(part.images), dtype=np.int64)
        same_person = part.inferred.same_person if len(part.inferred.same_person) else alone
        found.append((part.inferred.classes, same_person + start))
        start += len(part.images)
    return Inferred(
        np.concatenate([classes for classes, _ in found]),
        np.concatenate([others for _, others in found]),
    )


def _intervals(scenario: Scenario, columns: Columns, chosen: NDArray[np.bool_]) -> Row:
    """Return the mean of each score over the chosen victims, with bootstrap intervals."""
    resamples = scenario.evaluation.bootstrap_resamples
    return {
        score.key: bootstrap_interval(
            score.values(columns)[chosen], resamples, scenario.seed
        ).as_dict()
        for score in SCORES
        if score.column in columns
    }


def _inferred(scenario: Scenario, said: Inferred | None, victims: Victims) -> Row | None:
    """Score what an attack says of classes and persons; chance is printed beside each."""
    if said is None:
        return None
    resamples, count = scenario.evaluation.bootstrap_resamples, len(victims.rows)
    right = (said.classes == victims.labels).astype(np.float64)
    largest = np.bincount(victims.labels).max() / count
    found: Row = {
        "class": bootstrap_interval(right, resamples, scenario.seed).as_dict(),
        "majority_class": float(largest),
        "same_person": None,
        "chance_same_person": None,
    }
    persons = victims.persons
    if persons is not None and count > 1:
        same = persons[:, None] == persons[None, :]
        others = same.sum(axis=1) - 1
        known = others > 0  # a person with a single image has no pair
        if known.any():
            itself = said.same_person == np.arange(count)
            hits = ((persons[said.same_person] == persons) & ~itself).astype(np.float64)
            rate = bootstrap_interval(hits[known], resamples, scenario.seed)
            found["same_person"] = rate.as_dict()
            found["chance_same_person"] = float((others[known] / (count - 1)).mean())
    return found
