"""Expands a ``sweep:`` section: every combination of its values is a scenario."""

import copy
import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.core.errors import UserError
from testbed.scenario.loading import SWEEP, parse_overrides, read_tree, set_key, validate_scenario
from testbed.scenario.schema import Scenario

MAX_POINTS = 1000
MAX_VALUE_LETTERS = 32
MAX_NAME_LETTERS = 160
Changes = Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class Point:
    """One scenario of a sweep or batch.

    Attributes
    ----------
    name : its folder's name, made of its values: it does not change when the sweep grows.
    values : the swept keys and this point's values.
    """

    name: str
    scenario: Scenario
    values: Mapping[str, Any]


def has_sweep(path: Path, overrides: Sequence[str]) -> bool:
    """Return whether a scenario file or an override asks for a sweep.

    Raises
    ------
    UserError : the file cannot be read, or an override is malformed.
    """
    given = (key.split(".")[0] for key, _ in parse_overrides(overrides))
    return SWEEP in read_tree(path) or SWEEP in given


def expand_files(paths: Sequence[Path], overrides: Sequence[str]) -> list[Point]:
    """Return the validated points of one or several scenario files.

    Raises
    ------
    UserError : a file, an override or a point is wrong, or two points would share a folder.
    """
    changes = parse_overrides(overrides)
    points: list[Point] = []
    for path in paths:
        found = expand(read_tree(path), changes, str(path), prefixed=len(paths) > 1)
        taken = {point.name for point in points}
        if twice := [point.name for point in found if point.name in taken]:
            raise UserError(
                f"{path}: name: another scenario of this batch has the name '{twice[0]}' "
                "too; give each its own name"
            )
        points += found
    return points


def expand(
    tree: Mapping[str, Any], changes: Changes, where: str, prefixed: bool = False
) -> list[Point]:
    """Return the points of a scenario's tree; without ``sweep:`` it is a single point.

    The first key changes slowest. Nested keys and key paths are equivalent.

    Parameters
    ----------
    changes : overrides, applied before the sweep's own values.
    where : names the tree's origin in messages.
    prefixed : begin the points' names with the scenario's.

    Raises
    ------
    UserError : a key or a value is wrong; names the file, the key and the value.
    """
    base = copy.deepcopy(dict(tree))
    for key, value in changes:
        set_key(base, key, copy.deepcopy(value))
    if SWEEP not in base:
        scenario = validate_scenario(base, where)
        return [Point(scenario.name, scenario, {})]
    grid = _grid(base.pop(SWEEP), where)
    _refuse_overridden(grid, changes, where)
    shorts = _short_keys(list(grid))
    points = []
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        own = copy.deepcopy(base)
        for key, value in chosen.items():
            set_key(own, key, copy.deepcopy(value), f"{where}: {SWEEP}.")
        shown = ", ".join(f"{key}={_shown(value)}" for key, value in chosen.items())
        scenario = validate_scenario(own, f"{where}, sweep point {shown}")
        name = _fitting("_".join(f"{shorts[key]}-{_slug(value)}" for key, value in chosen.items()))
        points.append(Point(f"{scenario.name}_{name}" if prefixed else name, scenario, chosen))
    _refuse_equal_names(points, where)
    return points


def _grid(section: Any, where: str) -> dict[str, list[Any]]:
    """Return key path -> values of a ``sweep:`` section."""
    grid: dict[str, list[Any]] = {}
    if not isinstance(section, dict) or not section:
        raise UserError(f"{where}: {SWEEP}: give key paths with lists, such as seed: [0, 1]")
    _flatten(section, "", grid, where)
    points = math.prod(len(values) for values in grid.values())
    if points > MAX_POINTS:
        raise UserError(f"{where}: {SWEEP}: {points} points, at most {MAX_POINTS} are allowed")
    return grid


def _flatten(section: Mapping[str, Any], above: str, grid: dict[str, list[Any]], at: str) -> None:
    for key, value in section.items():
        path = f"{above}{key}"
        where = f"{at}: {SWEEP}.{path}"
        if not isinstance(key, str) or not all(path.split(".")):
            raise UserError(f"{where}: not a key path such as fleet.size")
        if isinstance(value, dict) and value:
            _flatten(value, f"{path}.", grid, at)
            continue
        if not isinstance(value, list) or not value:
            raise UserError(f"{where}: give a list of values, got {_shown(value)}")
        if path in grid:
            raise UserError(f"{where}: this key is swept twice")
        if len(value) > MAX_POINTS:  # before every value is compared with those before it
            raise UserError(f"{where}: {len(value)} values, at most {MAX_POINTS} are allowed")
        twice = next((item for i, item in enumerate(value) if item in value[:i]), None)
        if twice is not None:
            raise UserError(f"{where}: the value {_shown(twice)} is given twice")
        grid[path] = value


def _refuse_overridden(grid: Mapping[str, Any], changes: Changes, where: str) -> None:
    """Refuse an override of a swept key: one of the two would be lost."""
    for key, _ in changes:
        for swept in grid:
            if swept == key or swept.startswith(f"{key}."):
                raise UserError(
                    f"{where}: {SWEEP}.{swept} sets the same key as --set {key}; change the sweep "
                    "or leave the override out"
                )


def _refuse_equal_names(points: Sequence[Point], where: str) -> None:
    seen: dict[str, Point] = {}
    for point in points:
        if point.name in seen:
            raise UserError(
                f"{where}: {SWEEP}: two points would both have the name '{point.name}': "
                f"{_shown(dict(seen[point.name].values))} and {_shown(dict(point.values))}"
            )
        seen[point.name] = point


# Names of folders -------------------------------------------------------------------------------


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return the shortest ending of each key path that no other key path has."""
    shorts = {}
    for key in keys:
        parts = key.split(".")
        for count in range(1, len(parts) + 1):
            ending = parts[-count:]
            if sum(other.split(".")[-count:] == ending for other in keys) == 1:
                break
        shorts[key] = _slug(".".join(ending))
    return shorts


def _slug(value: Any) -> str:
    """Return a value as part of a folder's name; with a digest if it is shortened."""
    if isinstance(value, dict | list):
        named = value.get("name") if isinstance(value, dict) else None
        return f"{_slug(named) if isinstance(named, str) else 'value'}-{_digest(value)}"
    text = str(value).lower() if value is None or isinstance(value, bool) else str(value)
    plain = re.sub(r"[^A-Za-z0-9_.+-]", "-", text)[:MAX_VALUE_LETTERS]
    return plain if plain == text and plain.strip(".") else f"{plain.strip('.')}{_digest(value)}"


def _fitting(name: str) -> str:
    """Return the name, shortened if it is too long for file systems."""
    if len(name) <= MAX_NAME_LETTERS:
        return name
    return f"{name[:MAX_NAME_LETTERS]}-{_digest(name)}"


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
