"""What is measured of an arm over its seeds: utility, cost, leakage and attacks."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from testbed.compare.analysis.arms import ComparedArm
from testbed.compare.analysis.attacks import Attacked, Attacks, attacks_of
from testbed.compare.analysis.request_table import (
    Column,
    Estimate,
    Kind,
    RequestTable,
    Resamples,
    Values,
)
from testbed.compare.analysis.runs import tiers_by_name
from testbed.core.errors import UserError
from testbed.privacy.intervals import Interval
from testbed.results.figures import COST, LEAKAGE, UTILITY, shown_in, value_at
from testbed.results.schema import Edge

ESTIMATED = shown_in("compare", UTILITY, COST, LEAKAGE)
EDGE = [figure for figure in ESTIMATED if figure.path.startswith("edge.")]
"""Figures of the front-end: an arm's are the means over requests, since tiers differ."""
SERVED = list(dict.fromkeys(figure.column for figure in ESTIMATED if figure.column))


@dataclass(frozen=True)
class ArmEstimates:
    """An arm with its estimates.

    Attributes
    ----------
    estimates : by name: ``accuracy``, the costs, the leakage measures.
    correct : the answers, for differences between arms.
    attacks : what the adversaries reached.
    """

    arm: ComparedArm
    estimates: Mapping[str, Estimate]
    correct: Column
    attacks: Attacks

    def __getitem__(self, name: str) -> Estimate:
        """Return an estimate; ``mse``, ``psnr_db``, ``ssim`` ... are the best attack's."""
        if name in self.estimates:
            return self.estimates[name]
        best = self.best
        if best is None:
            nothing = np.full(len(self.estimates["accuracy"].samples), np.nan)
            return Estimate(Interval(), nothing)
        return Estimate(best.scores[name], best.samples[name])

    @property
    def best(self) -> Attacked | None:
        """The best attack of all adversaries."""
        return self.attacks.best


def measure(arm: ComparedArm, request_table: RequestTable, draws: Resamples) -> ArmEstimates:
    """Estimate everything of one arm."""
    served = _served(arm, request_table)
    estimates = {}
    for figure in ESTIMATED:
        column = served.get(figure.column or figure.key)
        if column is None:
            seeds = [request_table.seeds.index(seed) for seed in arm.seeds]
            values = [figure.of(member.arm) for member in arm.members]
            estimates[figure.key] = draws.mean_over_seeds(values, seeds)
        elif figure.percentile is None:
            kind: Kind = "share" if figure.column == "correct" else "mean"
            estimates[figure.key] = draws.mean(column, kind)
        else:
            estimates[figure.key] = draws.percentile(column, figure.percentile)
    return ArmEstimates(arm, estimates, served["correct"], attacks_of(arm, request_table, draws))


def _served(arm: ComparedArm, request_table: RequestTable) -> dict[str, Column]:
    """Return the columns over answered requests; unknown values are left out."""
    parts: dict[str, list[Values]] = {
        name: [] for name in (*SERVED, *(figure.key for figure in EDGE))
    }
    places = []
    for member in arm.members:
        rows = member.run.requests.where(arm=member.arm.name, status="answered")
        places.append(request_table.places(member.run.seed, rows["request"]))
        for name in SERVED:
            parts[name].append(rows[name].astype(np.float64))
        costs = _edge_of_devices(arm, member.run.seed)
        # A device that sends the raw image runs no front-end.
        ran = rows["raw"] != 1.0
        for figure in EDGE:
            values = np.array(
                [value_at(costs.get(int(device)), figure.key) for device in rows["device"]],
                dtype=np.float64,
            )
            absent = 0.0 if figure.key == "macs" else np.nan
            parts[figure.key].append(np.where(ran, values, absent))
    at = np.concatenate(places)
    columns = {name: Column(at, np.concatenate(values)) for name, values in parts.items()}
    return {name: column.only(np.isfinite(column.values)) for name, column in columns.items()}


def _edge_of_devices(arm: ComparedArm, seed: int) -> dict[int, Edge | None]:
    """Return the front-end of every device, by its tier."""
    member = next(member for member in arm.members if member.run.seed == seed)
    tiers = tiers_by_name(member.arm)
    rows = member.run.devices.where(arm=member.arm.name)
    found: dict[int, Edge | None] = {}
    for device, tier in zip(rows["device"], rows["tier"], strict=True):
        if tiers and tier not in tiers:
            raise UserError(
                f"{member.run.path / 'devices.parquet'}: the tier '{tier}' of device "
                f"{int(device)} is not in results.json"
            )
        found[int(device)] = tiers[tier].edge if tiers else member.arm.edge
    return found
