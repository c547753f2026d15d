"""Tables of encoded images in Hugging Face layout, from parquet files or from the hub."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from testbed.core.errors import UserError
from testbed.data.layout import (
    DEFAULT_CHOICE,
    SplitChoice,
    choose_splits,
    holds_dataset,
    parquet_files,
    splits_of,
)

DATA_DIR_VARIABLE = "TESTBED_DATA_DIR"
BATCH_ROWS = 1000


@dataclass(frozen=True)
class EncodedTable:
    """One file or hub split, read in batches so that memory holds one batch of encoded images.

    Attributes
    ----------
    where : file or hub split, for messages.
    official_test : whether it is the dataset's test set.
    rows : their number.
    schema : its Arrow columns.
    features : the Hugging Face metadata of each column (may be empty).
    batches : iterates over the rows of the named columns, in order.
    """

    where: str
    official_test: bool
    rows: int
    schema: pa.Schema
    features: dict[str, Any]
    batches: Callable[[list[str]], Iterator[pa.RecordBatch]]

    def feature(self, column: str) -> dict[str, Any]:
        """Return the metadata of one column; empty where it is missing or a list."""
        feature = self.features.get(column)
        return feature if isinstance(feature, dict) else {}


@dataclass(frozen=True)
class Tables:
    """The tables of a dataset, and sentences on which files they are."""

    items: list[EncodedTable]
    notes: tuple[str, ...]


def filled_tables(tables: list[EncodedTable], notes: tuple[str, ...]) -> Tables:
    """Leave out tables without rows, with a note of their number.

    Raises
    ------
    UserError : all training tables, or all of the official test set, have no rows.
    """
    for official, what in ((False, "training files"), (True, "official test set")):
        of_split = [table for table in tables if table.official_test == official]
        if of_split and not any(table.rows for table in of_split):
            raise UserError(
                f"{', '.join(table.where for table in of_split)}: no rows in the {what}; choose "
                f"another split in data.options.{'test' if official else 'training'}_split"
                + (", or null" if official else "")
            )
    filled = [table for table in tables if table.rows]
    empty = len(tables) - len(filled)
    if empty:
        notes += (
            f"{empty} of these {len(tables)} files {'has' if empty == 1 else 'have'} no rows",
        )
    return Tables(filled, notes)


def find_folder(name: str, path: str | None) -> Path | None:
    """Find a dataset's local folder.

    ``path`` (``data.path``) may be the dataset's folder or its parent. Without it, the folder
    ``name`` is searched in the directory of ``TESTBED_DATA_DIR``.

    Returns
    -------
    The folder, or None if ``path`` is not given and there is no local copy.

    Raises
    ------
    UserError : ``path`` is given and holds no parquet files.
    """
    if path is not None:
        given = Path(path).expanduser()
        if parquet_files(given / name):
            return given / name
        if holds_dataset(given):
            return given
        raise UserError(
            f"data.path: no parquet files in {given} or in {given / name}; give the folder of "
            f"{name} in Hugging Face parquet layout, or its parent, or use data.name=digits"
        )
    data_dir = os.environ.get(DATA_DIR_VARIABLE)
    if data_dir and parquet_files(Path(data_dir).expanduser() / name):
        return Path(data_dir).expanduser() / name
    return None


def where_looked(name: str) -> str:
    """Say where a local copy was searched, and how to give its folder."""
    data_dir = os.environ.get(DATA_DIR_VARIABLE)
    looked = f"no {Path(data_dir) / name}" if data_dir else f"{DATA_DIR_VARIABLE} is not set"
    return (
        f"no local copy ({looked}, data.path is not set); set {DATA_DIR_VARIABLE} or data.path to "
        "a folder in Hugging Face parquet layout, or use data.name=digits"
    )


def folder_tables(folder: Path, choice: SplitChoice = DEFAULT_CHOICE) -> Tables:
    """Open the parquet files of a folder's training split and official test set.

    Raises
    ------
    UserError : ``testbed.data.layout`` cannot tell the splits, a file is not parquet (raised now),
        or corrupt (raised while reading), and as ``filled_tables``.
    """
    chosen, notes = choose_splits(
        splits_of(folder, choice.subset),
        choice,
        str(folder),
        lambda path: path.relative_to(folder).as_posix(),
    )
    return filled_tables([_parquet_table(path, test) for path, test in sorted(chosen)], notes)


def _parquet_table(path: Path, official_test: bool) -> EncodedTable:
    try:
        # An open file, since pyarrow takes a relative path with a colon for a URI.
        with path.open("rb") as opened, pq.ParquetFile(opened) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = dict(metadata.get("info", {}).get("features", {}))
        twice = sorted(name for name, count in Counter(schema.names).items() if count > 1)
    except (pa.ArrowException, OSError, ValueError, AttributeError, TypeError) as error:
        raise _corrupt(path, error) from None
    if twice:
        raise UserError(f"{path}: more than one column is named '{twice[0]}'")

    def batches(columns: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            with path.open("rb") as opened, pq.ParquetFile(opened) as file:
                yield from file.iter_batches(batch_size=BATCH_ROWS, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise _corrupt(path, error) from None

    return EncodedTable(
        where=str(path),
        official_test=official_test,
        rows=rows,
        schema=schema,
        features=features,
        batches=batches,
    )


def _corrupt(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{path}: not a readable parquet file ({reason:.160})")
