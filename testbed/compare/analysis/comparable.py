"""Whether runs may be compared: same images, fleet, serving and adversaries."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.compare.analysis.runs import Run, training_of
from testbed.core.errors import UserError

IntArray = NDArray[np.int64]
MISSING = "nothing"
CHANCE_SIGMAS = 6.0


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs whose differences would be taken for differences between defences.

    Arms, tiers and training may differ: they are what is compared. Everything that decides which
    images are attacked, by whom and on which devices must be the same, and runs of one seed must
    have served the very same requests.

    Raises
    ------
    UserError : two runs that differ, with the first key in which they do.
    """
    first = runs[0]
    for run in runs[1:]:
        for found in (
            _difference(_facts(first), _facts(run)),
            _other_number_of_images(first, run),
            _difference(*_both(first, run)),
        ):
            if found is not None:
                key, one, other = found
                raise UserError(
                    f"{first.path} and {run.path} cannot be compared: {key} is {_shown(one)} "
                    f"in the first and {_shown(other)} in the second"
                )
    for run in runs:
        same_seed = next(other for other in runs if other.seed == run.seed)
        if not _same_requests(same_seed, run):
            raise UserError(
                f"{same_seed.path} and {run.path} cannot be compared: both have seed {run.seed}, "
                "but their devices' requests differ; were they made by different versions?"
            )


def training_differences(runs: Sequence[Run]) -> list[str]:
    """Return the keys of the training section in which runs differ from the first."""
    keys = []
    for run in runs[1:]:
        found = _difference({"training": training_of(runs[0])}, {"training": training_of(run)})
        if found is not None:
            keys.append(found[0])
    return sorted(set(keys))


def _facts(run: Run) -> dict[str, Any]:
    """Return what ``results.json`` says of the data: what was read, not only what was asked for."""
    data = run.results.summary.data
    return {"data": data.model_dump(include={"name", "image_shape", "label_names"})}


def _other_number_of_images(one: Run, other: Run) -> tuple[str, Any, Any] | None:
    """Return the key and both numbers if the seeds do not explain that they differ.

    The seed decides into which part an image falls, and where the data have a test file of their
    own, how many of its images are victims and how many are spare: a binomial number, so that two
    seeds may differ by ``CHANCE_SIGMAS`` standard deviations of a difference of two.
    """
    mine, its = _images(one), _images(other)
    by_chance = CHANCE_SIGMAS * (max(mine, its) / 2) ** 0.5 if one.seed != other.seed else 0.0
    return ("data.images", mine, its) if abs(mine - its) > by_chance else None


def _images(run: Run) -> int:
    return sum(run.results.summary.data.images.model_dump().values())


def _both(one: Run, other: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    return _settings(one.scenario), _settings(other.scenario)


def _settings(scenario: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections that must be the same; where files lie is no difference."""
    skipped = {
        "data": {"path"},
        "fleet": {"assignments"},  # part of the arms
        "serving": {"recorded_service_ms"},  # by arm
    }
    return {
        section: {
            key: value
            for key, value in dict(scenario.get(section) or {}).items()
            if key not in skipped.get(section, set())
        }
        for section in ("data", "fleet", "serving")
    } | {"adversaries": scenario["adversaries"]}


def _difference(one: Any, other: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """Return the first key path where two trees differ, with both values."""
    one, other = _by_name(one), _by_name(other)
    if isinstance(one, dict) and isinstance(other, dict):
        for name in dict.fromkeys([*one, *other]):
            inner = f"{key}.{name}" if key else str(name)
            if name not in one or name not in other:
                return inner, one.get(name, MISSING), other.get(name, MISSING)
            found = _difference(one[name], other[name], inner)
            if found is not None:
                return found
        return None
    return None if one == other else (key, one, other)


def _by_name(tree: Any) -> Any:
    """Return a list of named sections by name, so that a difference has a name and no place."""
    if isinstance(tree, list) and tree and all(isinstance(item, dict) for item in tree):
        for key in ("name", "device"):
            names = [item.get(key) for item in tree]
            if None not in names and len(set(names)) == len(names):
                return dict(zip(names, tree, strict=True))
    return tree


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        text = str(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    return str(value)


def _same_requests(one: Run, other: Run) -> bool:
    return all(
        np.array_equal(mine, its)
        for mine, its in zip(requests_of(one), requests_of(other), strict=True)
    )


def requests_of(run: Run) -> tuple[IntArray, IntArray, IntArray]:
    """Return request, device and victim of every request of a run, which its arms share.

    Raises
    ------
    UserError : arms of the run list different requests.
    """
    rows = run.requests
    found: list[IntArray] | None = None
    for arm in run.results.arms:
        own = rows.where(arm=arm.name)
        order = np.argsort(own["request"], kind="stable")
        columns = [own[name][order].astype(np.int64) for name in ("request", "device", "victim")]
        if found is not None and not all(map(np.array_equal, found, columns)):
            raise UserError(
                f"{run.path / 'requests.parquet'}: arms of one run have different requests"
            )
        found = columns
    if not found or not len(found[0]):
        raise UserError(f"{run.path / 'requests.parquet'}: no request was served")
    return found[0], found[1], found[2]
