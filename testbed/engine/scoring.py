"""Scores one attack's reconstructions against the truth, overall and per device class."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.adversaries.base import FloatArray, IntArray, Reconstruction
from testbed.core.registries import ATTACKS
from testbed.core.scenario import Scenario
from testbed.privacy.intervals import bootstrap_interval
from testbed.privacy.scores import ScoreTable, score

Row = dict[str, Any]
SCORES = ("mse", "psnr_db", "ssim", "reidentified")
NAMES = {"reidentified": "reidentification"}


@dataclass(frozen=True)
class Victims:
    """The truth behind a tap's intercepts, in their order; no adversary ever sees it.

    Attributes
    ----------
    rows : image of each victim in the data's pool.
    images : in [0, 1], (N, C, H, W).
    pool, pool_index : all victims' images for re-identification, and each victim's place in it.
    """

    requests: IntArray
    rows: IntArray
    devices: IntArray
    device_classes: Sequence[str]
    tiers: Sequence[str]
    labels: IntArray
    images: FloatArray
    pool: FloatArray
    pool_index: IntArray


@dataclass(frozen=True)
class ScoredAttack:
    """The attack's entry of results.json without its identity, and its rows of attacks.parquet."""

    entry: Row
    rows: list[Row]
    mse: float


def score_attack(
    scenario: Scenario, victims: Victims, attack: str, parts: Mapping[str, Reconstruction]
) -> ScoredAttack:
    """Score the reconstructions of one attack.

    Parameters
    ----------
    parts : what the attack made of each tier's features, by tier, in the order of the victims.
    """
    images = np.concatenate([part.images for part in parts.values()])
    table = score(images, victims.images, victims.pool, victims.pool_index)
    classes, tiers = np.array(victims.device_classes), np.array(victims.tiers)
    everyone = np.ones(len(classes), dtype=bool)
    declared = ATTACKS.entry(attack).factory
    by_class = [
        {"device_class": name, **_group(scenario, table, classes == name)}
        for name in sorted(set(victims.device_classes))
    ]
    by_tier = [
        {
            "tier": name,
            **_group(scenario, table, tiers == name),
            "best_epoch": part.best_epoch,
            "curve": [asdict(point) for point in part.curve],
        }
        for name, part in parts.items()
    ]
    # The curve of an attack is that of the tier with most victims; by_tier has all of them.
    largest = max(parts, key=lambda name: int((tiers == name).sum()))
    reconstruction = parts[largest]
    entry = {
        "is_anchor": declared.is_anchor,  # type: ignore[attr-defined]
        "threat_model": declared.threat_model,  # type: ignore[attr-defined]
        "victims": len(classes),
        "scores": _intervals(scenario, table, everyone),
        "pool_size": table.pool_size,
        "chance_reidentification": 1.0 / table.pool_size,
        "body_parameters": reconstruction.body_parameters,
        "adapter_parameters": reconstruction.adapter_parameters,
        "best_epoch": reconstruction.best_epoch,
        "curve": [asdict(point) for point in reconstruction.curve],
        "by_device_class": by_class,
        "by_tier": by_tier,
    }
    rows = [
        {
            "request": int(victims.requests[index]),
            "victim": int(victims.rows[index]),
            "device": int(victims.devices[index]),
            "device_class": victims.device_classes[index],
            "tier": victims.tiers[index],
            "label": int(victims.labels[index]),
            "mse": float(table.mse[index]),
            "psnr_db": float(table.psnr_db[index]),
            "ssim": float(table.ssim[index]),
            "reidentified": bool(table.reidentified[index]),
        }
        for index in range(len(classes))
    ]
    return ScoredAttack(entry, rows, float(table.mse.mean()))


def _group(scenario: Scenario, table: ScoreTable, chosen: NDArray[np.bool_]) -> Row:
    return {"victims": int(chosen.sum()), **_intervals(scenario, table, chosen)}


def _intervals(scenario: Scenario, table: ScoreTable, chosen: NDArray[np.bool_]) -> Row:
    """Return the mean of each score over the chosen victims, with bootstrap intervals."""
    resamples = scenario.evaluation.bootstrap_resamples
    return {
        NAMES.get(name, name): bootstrap_interval(
            np.asarray(getattr(table, name), dtype=np.float64)[chosen], resamples, scenario.seed
        ).as_dict()
        for name in SCORES
    }
