"""Reads a results folder (docs/results.md) into one read-only object."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from testbed.core.errors import UserError
from testbed.core.files import check_name
from testbed.results.columns import TABLES, TableName, arrow_schema
from testbed.results.host_facts import AttackCost, HostFacts
from testbed.results.schema import (
    SCHEMA_VERSION,
    ArmResult,
    AttackResult,
    Summary,
    training_samples,
)
from testbed.scenario.loading import describe

M = TypeVar("M", bound=BaseModel)
Column = NDArray[Any]
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Rows:
    """Columns of equal length; text as object arrays, numbers as float64 with NaN for null."""

    columns: Mapping[str, Column]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> Column:
        """Return one column."""
        return self.columns[name]

    def where(self, **equal: str) -> "Rows":
        """Return the rows whose text columns equal the given values."""
        keep = np.ones(len(self), dtype=bool)
        for name, value in equal.items():
            keep &= self.columns[name] == value
        return Rows({name: column[keep] for name, column in self.columns.items()})


@dataclass(frozen=True)
class Results:
    """A results folder, read.

    Attributes
    ----------
    path : the folder.
    summary : ``results.json``.
    host : ``host.json``, or None where the run ended before writing it.
    rounds, requests : tables.
    samples : images of ``reconstructions/samples.npz``, uint8 (N, H, W, C) with C of 1 or 3.
    """

    path: Path
    summary: Summary
    host: HostFacts | None
    rounds: Rows
    requests: Rows
    samples: Mapping[str, Images]

    @property
    def arms(self) -> list[ArmResult]:
        """The arms, in the order of the scenario."""
        return self.summary.arms

    def cost_of(
        self, arm: str, attack: AttackResult, on_training: bool = False
    ) -> AttackCost | None:
        """Return what an attack cost the machine that ran it; None: not measured."""
        wanted = (arm, attack.adversary, attack.attack, on_training)
        measured = self.host.attacks if self.host else []
        found = ((c.arm, c.adversary, c.attack, c.on_training) == wanted for c in measured)
        return next((cost for cost, own in zip(measured, found, strict=True) if own), None)


def read_results(path: Path) -> Results:
    """Read and validate a results folder.

    Raises
    ------
    UserError : no such folder, or a file in it is missing, corrupt or of another schema version.
    """
    check_name(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such results folder")
    summary = _read_summary(path / "results.json")
    host_file = path / "host.json"
    return Results(
        path=path,
        summary=summary,
        host=_model(HostFacts, read_json(host_file), host_file) if host_file.exists() else None,
        rounds=read_table(path, "rounds"),
        requests=read_table(path, "requests"),
        samples=_read_samples(path / "reconstructions" / "samples.npz", summary),
    )


def _read_summary(path: Path) -> Summary:
    tree = read_json(path)
    if not isinstance(tree, dict) or "schema_version" not in tree:
        raise UserError(f"{path}: not the results of a run (no 'schema_version')")
    version = tree["schema_version"]
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema_version is {version!r}, this report reads version {SCHEMA_VERSION}; "
            "use the version of the testbed that wrote it, or run the scenario again"
        )
    summary = _model(Summary, tree, path)
    names = [arm.name for arm in summary.arms]
    if len(set(names)) < len(names):
        raise UserError(f"{path}: arms: two arms have the same name")
    return summary


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON; unknown numbers are null")


def read_json(path: Path) -> Any:
    """Read a JSON file of a results folder.

    Raises
    ------
    UserError : the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise UserError(
            f"{path}: missing; a results folder holds it as soon as a run has started"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not valid JSON ({reason})") from None


def _model(model: type[M], tree: Any, path: Path) -> M:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise UserError(describe(error, str(path), model)) from None


def read_table(folder: Path, table: TableName) -> Rows:
    """Read a table of a run as numpy columns; errors as in ``read_arrow``."""
    return _rows(read_arrow(folder, table), table)


def read_arrow(folder: Path, table: TableName) -> pa.Table:
    """Read a table of a run.

    Raises
    ------
    UserError : the file is missing or damaged, or lacks a column.
    """
    path, schema = folder / f"{table}.parquet", arrow_schema(table)
    try:
        # An open file, since pyarrow takes a relative path with a colon for a URI.
        with path.open("rb") as opened, pq.ParquetFile(opened) as file:
            missing = [name for name in schema.names if name not in file.schema_arrow.names]
            if missing:
                raise UserError(f"{path}: the column '{missing[0]}' is missing")
            content = file.read(columns=schema.names).select(schema.names).cast(schema)
        content.validate(full=True)  # a damaged file may hold text that is not UTF-8
        return content
    except FileNotFoundError:
        raise UserError(f"{path}: missing; a run writes it before results.json") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except (pa.ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable parquet file ({reason})") from None


def _rows(content: pa.Table, table: TableName) -> Rows:
    return Rows(
        {
            column.name: content[column.name]
            .cast(pa.string() if column.type == "text" else pa.float64(), safe=False)  # rounds
            .to_numpy(zero_copy_only=False)
            for column in TABLES[table]
        }
    )


def _read_samples(path: Path, summary: Summary) -> dict[str, Images]:
    """Read only the arrays that belong to the attacks of ``summary``; absent ones are left out."""
    if not path.exists():
        return {}
    wanted = {
        key
        for arm in summary.arms
        for attack in arm.attacks
        for key in (
            f"original/{arm.name}/{attack.adversary}",
            f"{arm.name}/{attack.adversary}/{attack.attack}",
            f"extremes/{arm.name}/{attack.adversary}/{attack.attack}",
        )
    }
    wanted |= {
        key
        for arm in summary.arms
        for attack in arm.training_attacks
        for key in training_samples(arm.name, attack.result)
    }
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: not a readable archive of arrays")
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = [key for key in archive.files if key in wanted]
            return {key: _channels_last(archive[key], key, path) for key in keys}
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except Exception as error:
        # Damaged bytes bring out errors of zipfile, of its codecs and of Python's own tokenizer.
        raise UserError(f"{path}: not a readable archive of arrays ({error})") from None


def _channels_last(images: Column, key: str, path: Path) -> Images:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(
            f"{path}: '{key}' is {images.dtype} {images.shape}, expected uint8 images (N, C, H, W)"
        )
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
