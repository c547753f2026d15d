"""Writes the results folder: never over existing results without being told, never half a file."""

import io
import json
import logging
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from testbed.core.errors import UserError
from testbed.core.files import check_folder_for_output, whole_file, write_json
from testbed.results.columns import Record, TableName, arrow_schema
from testbed.results.schema import ArmResult, SelfCheck
from testbed.scenario.loading import dump_scenario, load_scenario
from testbed.scenario.schema import Scenario

RESOLVED = "scenario.resolved.yaml"
SAMPLES, ENTRY, FINISHED = "samples.npz", "arm.json", "finished.json"  # of a finished arm
DEVICES = "devices.parquet"
IN_ROWS: tuple[TableName, ...] = ("rounds", "requests", "attacks")
"""The tables that a finished arm keeps as rows; the devices may be a million."""
KEPT = (SAMPLES, DEVICES, ENTRY)
_LOG = logging.getLogger(__name__)


def check_folder(folder: Path, scenario: Scenario, force: bool, resume: bool) -> None:
    """Check that a run may write to the folder; nothing is changed.

    Raises
    ------
    UserError : it cannot be written; it holds something already and neither ``force`` nor
        ``resume`` allows to go on; or it holds another scenario to resume.
    """
    check_folder_for_output(folder)
    if resume:
        _check_same_scenario(folder, scenario)
        return
    begun = f"{RESOLVED}.tmp"  # of a run that was killed in the middle of its first file
    if not folder.is_dir() or all(item.name == begun for item in folder.iterdir()):
        return
    if not force:
        raise UserError(
            f"{folder}: results exist already; give --resume to continue an interrupted run, "
            "--force to replace them, or another folder with --out"
        )
    if not (folder / RESOLVED).exists():
        raise UserError(f"{folder}: --force replaces results folders only, this is none")


def open_folder(folder: Path, scenario: Scenario, resume: bool) -> None:
    """Make a checked folder ready: empty with the resolved scenario in it, or as it was to resume.

    The scenario is written first: where that fails, nothing has been removed.

    Raises
    ------
    UserError : it cannot be written.
    """
    if resume:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / RESOLVED) as temporary:
            temporary.write_text(dump_scenario(scenario), encoding="utf-8")
            for item in folder.iterdir():
                if item not in (temporary, folder / RESOLVED):
                    _remove(item)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None


def _remove(item: Path) -> None:
    if item.is_dir() and not item.is_symlink():
        shutil.rmtree(item)
    else:
        item.unlink()


def _check_same_scenario(folder: Path, scenario: Scenario) -> None:
    resolved = folder / RESOLVED
    if not resolved.exists():
        raise UserError(f"{folder}: nothing to resume (no {RESOLVED}); run without --resume")
    before = load_scenario(resolved).model_dump()
    now = recorded_before(folder, scenario).model_dump()
    # Hosts, backend and kept models change the wall time and nothing else.
    for tree in (before, now):
        tree["training"].pop("reuse_models")
        for key in ("backend", "hosts"):
            tree["engine"].pop(key)
    if before != now:
        changed = [key for key in now if before[key] != now[key]]
        raise UserError(
            f"{resolved}: the run to resume has another scenario (differs in: "
            f"{', '.join(changed)}); resume with the same one, or start anew with another --out"
        )


def recorded_before(folder: Path, scenario: Scenario) -> Scenario:
    """Return the scenario with what the run in the folder settled.

    These are measured service times, the device, and the provider's threads and precision.
    """
    before = load_scenario(folder / RESOLVED)
    settled: dict[str, dict[str, Any]] = {"serving": {}, "engine": {}}
    if scenario.serving.cloud_service == "measured":
        names = ("cloud_service", "recorded_service_ms")
        settled["serving"] = {name: getattr(before.serving, name) for name in names}
    if scenario.engine.device == "auto":
        settled["engine"] = {"device": before.engine.device}
    provider, then = scenario.training.provider, before.training.provider
    chosen: dict[str, Any] = {}
    if provider.threads is None:
        chosen["threads"] = then.threads
    if provider.precision == "auto":
        chosen["precision"] = then.precision
    settled["training"] = {"provider": provider.model_copy(update=chosen)}
    update = {
        section: getattr(scenario, section).model_copy(update=values)
        for section, values in settled.items()
    }
    return scenario.model_copy(update=update)


def write_table(path: Path, table: TableName, rows: Sequence[Record]) -> None:
    """Write rows as parquet with the declared columns of ``table``, all or nothing."""
    schema = arrow_schema(table)
    content = {field.name: [row[field.name] for row in rows] for field in schema}
    # An open file, since pyarrow takes a relative path with a colon for a URI.
    with whole_file(path) as temporary, temporary.open("wb") as file:
        pq.write_table(pa.table(content, schema=schema), file)


def write_devices(path: Path, arms: Sequence[pa.Table]) -> None:
    """Write the devices of arms, one arm after another, as one parquet file, all or nothing."""
    whole = pa.concat_tables([arrow_schema("devices").empty_table(), *arms]).combine_chunks()
    with whole_file(path) as temporary, temporary.open("wb") as file:
        pq.write_table(whole, file)


def write_samples(path: Path, samples: dict[str, NDArray[np.uint8]]) -> None:
    """Write arrays as one npz file, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, ".tmp.npz") as temporary:
        np.savez(temporary, **samples)  # type: ignore[arg-type]


# A finished arm ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class FinishedArm:
    """Everything that is kept of a finished arm.

    Attributes
    ----------
    tables : rows of the tables ``IN_ROWS``.
    samples : images by name.
    devices : the table of the devices.
    """

    result: ArmResult
    checks: list[SelfCheck]
    tables: dict[TableName, list[Record]]
    samples: dict[str, NDArray[np.uint8]]
    devices: pa.Table


def write_arm(folder: Path, arm: FinishedArm) -> None:
    """Write a finished arm; the checksums go last and mark it as finished."""
    write_samples(folder / SAMPLES, arm.samples)
    write_devices(folder / DEVICES, [arm.devices])
    checks = [check.tree() for check in arm.checks]
    tree = {"result": arm.result.tree(), "checks": checks, "tables": arm.tables}
    write_json(folder / ENTRY, tree)
    checksums = {name: zlib.crc32((folder / name).read_bytes()) for name in KEPT}
    write_json(folder / FINISHED, {"crc32": checksums})


def read_arm(folder: Path, say: Callable[[str], None] = lambda text: None) -> FinishedArm | None:
    """Return what ``write_arm`` wrote, or None where the arm is unfinished or damaged.

    Parameters
    ----------
    say : called with a sentence where it is damaged.
    """
    if not (folder / FINISHED).exists():
        return None
    try:
        checksums = json.loads((folder / FINISHED).read_text(encoding="utf-8"))["crc32"]
        content = {name: (folder / name).read_bytes() for name in KEPT}
        if checksums != {name: zlib.crc32(data) for name, data in content.items()}:
            raise ValueError("the checksums are those of other files")
        stored = json.loads(content[ENTRY])
        with np.load(io.BytesIO(content[SAMPLES]), allow_pickle=False) as archive:
            samples = {name: archive[name] for name in archive.files}
        return FinishedArm(
            ArmResult.model_validate(stored["result"]),
            [SelfCheck.model_validate(check) for check in stored["checks"]],
            stored["tables"],
            samples,
            pq.read_table(io.BytesIO(content[DEVICES])),
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        _LOG.warning("%s is damaged: %s", folder, error)
        say(f"{folder}: what was kept of this finished arm is damaged; it is finished again")
        return None
