"""The exported content of a run: curves, headline figures, options and pictures per arm."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.core.errors import UserError
from testbed.results.columns import TABLES
from testbed.results.findings import arm_figures
from testbed.results.reading import Results, Rows, read_results
from testbed.results.schema import ArmResult
from testbed.results.writing import RESOLVED
from testbed.scenario.loading import dump_scenario, load_scenario

CURVES = [c.name for c in TABLES["rounds"] if c.type != "text" and c.name != "round"]
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Point:
    """One value of a curve."""

    name: str
    step: int
    value: float


@dataclass(frozen=True)
class ExportedArm:
    """One arm of a run.

    Attributes
    ----------
    figures : the headline figures that are numbers, by name with unit.
    facts : the headline figures that are text: front-end, defence, best attack.
    options : the scenario's values for this arm, by key path.
    curves : per round of training, and per epoch of every attack that is trained in epochs.
    pictures : victims (originals) and reconstructions, uint8 (N, H, W, C), by name.
    """

    name: str
    figures: Mapping[str, float]
    facts: Mapping[str, str]
    options: Mapping[str, str]
    curves: list[Point]
    pictures: Mapping[str, Picture]


@dataclass(frozen=True)
class ExportedRun:
    """A complete run.

    Attributes
    ----------
    name : name of the scenario; runs of one scenario differ in ``folder``.
    scenario_text : the resolved scenario as YAML.
    """

    name: str
    folder: Path
    seed: int
    scenario_text: str
    arms: list[ExportedArm]


def read_run(folder: Path) -> ExportedRun:
    """Read a results folder for export.

    Raises
    ------
    UserError : it is missing, damaged, of another schema version, or of an interrupted run.
    """
    results = read_results(folder)
    facts = results.summary.scenario
    if results.summary.status != "complete":
        raise UserError(f"{folder}: the run was interrupted; finish it with --resume, then export")
    scenario = load_scenario(folder / RESOLVED)
    tree = scenario.model_dump(mode="json")
    sections = {arm.pop("name"): arm for arm in tree.pop("arms")}
    shared = dict(_flat(tree))
    curves = list(_training_curves(results.rounds))
    arms = []
    for arm, figures in zip(results.arms, arm_figures(results.arms), strict=True):
        own = {f"arm.{key}": value for key, value in _flat(sections.get(arm.name, {}))}
        arms.append(
            ExportedArm(
                arm.name,
                {key: float(v) for key, v in figures.items() if isinstance(v, int | float)},
                {key: v for key, v in figures.items() if isinstance(v, str)},
                shared | own,
                [point for name, point in curves if name == arm.name] + _attack_curves(arm),
                _pictures(results, arm),
            )
        )
    return ExportedRun(facts.name, folder, facts.seed, dump_scenario(scenario), arms)


def _training_curves(rows: Rows) -> Iterator[tuple[str, Point]]:
    for index in range(len(rows)):
        for name in CURVES:
            value = float(rows[name][index])
            if math.isfinite(value):
                step = int(rows["round"][index])
                yield str(rows["arm"][index]), Point(f"training/{name}", step, value)


def _attack_curves(arm: ArmResult) -> list[Point]:
    points = []
    for attack in arm.attacks:
        for epoch in attack.training_curve:
            for name in ("training_mse", "validation_mse"):
                value = getattr(epoch, name)
                if value is not None:
                    path = f"attack/{attack.adversary}/{attack.attack}/{name}"
                    points.append(Point(path, epoch.epoch, value))
    return points


def _pictures(results: Results, arm: ArmResult) -> dict[str, Picture]:
    found = {}
    for attack in arm.attacks:
        original = results.samples.get(f"original/{arm.name}/{attack.adversary}")
        rebuilt = results.samples.get(f"{arm.name}/{attack.adversary}/{attack.attack}")
        if original is not None:
            found[f"{attack.adversary}/original"] = original
        if rebuilt is not None:
            found[f"{attack.adversary}/{attack.attack}"] = rebuilt
    return found


def _flat(tree: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield key path and text of every value; list items are keyed by their name, if any."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _flat(value, f"{above}.{key}" if above else str(key))
    elif isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        for index, item in enumerate(tree):
            name = item.get("name", index) if isinstance(item, dict) else index
            yield from _flat(item, f"{above}.{name}")
    else:
        yield above, "" if tree is None else str(tree)
