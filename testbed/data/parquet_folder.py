"""Image classification data in Hugging Face parquet layout, from a folder or the hub."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from testbed.core.errors import UserError
from testbed.core.registries import DATASETS
from testbed.core.registry import Options
from testbed.data.decoding import Mode
from testbed.data.encoded import IMAGE_BYTES, Columns, is_image_type, pool_from_tables
from testbed.data.hub import hub_tables
from testbed.data.images import ImagePool
from testbed.data.layout import SplitChoice, parquet_files
from testbed.data.tables import DATA_DIR_VARIABLE, EncodedTable, folder_tables

HUB_NAME_PATTERN = r"[A-Za-z0-9][\w.-]*/[\w.-]+"
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("labels", "class", "fine_label", "target", "category")  # "label" wins over these
PERSON_WORDS = "person|people|identity|subject|writer|patient|participant|user|client|celeb(rity)?"
PERSON_COLUMNS = re.compile(rf"({PERSON_WORDS}|speaker|volunteer)[-_ .]?(id|ids|name|no|number)?")

ColumnName = Annotated[str, Field(min_length=1)]


class ParquetFolderOptions(Options):
    """The columns to read; null finds images and classes by usual names and by the metadata.

    ``person_column`` splits the images by person: no person is in two parts. null does not, and
    warns if a column has the name of a person column; false does not.

    ``training_split``, ``test_split`` : the splits that are used; without a test split (null, or
    the dataset has none), victims are drawn from the training split. ``subset`` : a folder, or a
    configuration of the hub, of a dataset that has several.

    ``mode`` converts every image to grey ("L") or "RGB", also palettes, CMYK and transparency
    (over white); null reads grey and RGB, which must not be mixed.
    """

    image_column: ColumnName | None = None
    label_column: ColumnName | None = None
    person_column: ColumnName | Literal[False] | None = None
    mode: Mode | None = None
    training_split: str = "train"
    test_split: str | None = "test"
    subset: str | None = None

    @field_validator("person_column", mode="before")
    @classmethod
    def _no_number(cls, given: Any) -> Any:
        if given is None or given is False or isinstance(given, str):
            return given
        raise ValueError(
            f"give the name of a column, false (no split by person) or null, got {given!r:.80}"
        )


@DATASETS.register(
    "parquet_folder",
    "any labelled images in Hugging Face parquet layout: data.path is a folder or a hub name",
    ParquetFolderOptions,
)
def load_parquet_folder(
    options: ParquetFolderOptions,
    *,
    path: str | None,
    image_size_px: int | None,
    max_images: int | None,
) -> ImagePool:
    """Load the dataset that ``path`` names: a folder (also below TESTBED_DATA_DIR), or a hub name.

    Raises
    ------
    UserError : no such folder or hub dataset, columns that cannot be found, unreadable files.
    """
    if path is None:
        raise UserError("data.path: required with data.name=parquet_folder (folder or hub name)")
    data_dir = os.environ.get(DATA_DIR_VARIABLE)
    places = [Path(path).expanduser(), *([Path(data_dir).expanduser() / path] if data_dir else [])]
    folder = next((place for place in places if parquet_files(place)), None)
    choice = SplitChoice(options.training_split, options.test_split, options.subset)
    if folder is not None:
        dataset = folder_tables(folder, choice)
    elif any(place.is_file() for place in places):
        raise UserError(f"data.path: {path} is a file; give the folder that holds the data set")
    elif re.fullmatch(HUB_NAME_PATTERN, path):
        advice = f"no folder of that name with parquet files ({places[0]})"
        dataset = hub_tables(path, advice, choice)
    else:
        looked = " or ".join(dict.fromkeys(str(place) for place in places))
        raise UserError(f"data.path: no parquet files in {looked}")
    return pool_from_tables(
        "parquet_folder",
        dataset,
        _columns(dataset.items, options),
        source=f"folder {folder.name}" if folder else f"hub {path}",
        image_size_px=image_size_px,
        max_images=max_images,
        mode=options.mode,
        person_candidate=_person_candidate(dataset.items, options),
    )


def _columns(tables: list[EncodedTable], options: ParquetFolderOptions) -> Columns:
    """Find the columns of images, classes and persons: usual names first, then declared types."""
    names = tables[0].schema.names
    kinds = {name: tables[0].schema.field(name).type for name in names}
    images = [name for name in names if is_image_type(kinds[name])]

    def declared(kind: str) -> list[str]:
        return [name for name in names if any(t.feature(name).get("_type") == kind for t in tables)]

    if not images and options.image_column is None:
        held = ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "no columns"
        raise UserError(f"{tables[0].where}: no column holds images, only {held}; {IMAGE_BYTES}")
    image = options.image_column or _only(
        tables[0],
        "image_column",
        [name for name in images if _plain(name) in IMAGE_COLUMNS],
        [name for name in images if name in declared("Image")],
        [name for name in images if pa.types.is_struct(kinds[name])],
        images,
    )
    label = options.label_column or _only(
        tables[0],
        "label_column",
        [name for name in names if _plain(name) == "label"],
        [name for name in names if _plain(name) in LABEL_COLUMNS],
        declared("ClassLabel"),
    )
    return Columns(image, label, options.person_column or None)


def _plain(name: str) -> str:
    return name.strip().lower()


def _person_candidate(tables: list[EncodedTable], options: ParquetFolderOptions) -> str | None:
    """Return a column that may name persons, if the scenario does not say what to do with it."""
    if options.person_column is not None:
        return None
    names = (name for table in tables for name in table.schema.names)
    return next((name for name in names if PERSON_COLUMNS.fullmatch(_plain(name))), None)


def _only(table: EncodedTable, option: str, *preferred: list[str]) -> str:
    """Return the column that the first non-empty list names; refuse none, and more than one."""
    found: list[str] = next(filter(None, preferred), [])
    if len(found) == 1:
        return found[0]
    columns = ", ".join(found or table.schema.names)
    fault = f"{columns} could each be" if found else "cannot find"
    among = "" if found else f" among {columns}"
    raise UserError(f"{table.where}: {fault} the {option}{among}; name it in data.options.{option}")
