"""Image classification data in Hugging Face parquet layout, from a folder or the hub."""

import os
import re
from pathlib import Path

from testbed.core.errors import UserError
from testbed.core.registries import DATASETS
from testbed.core.registry import Options
from testbed.data.decoding import Mode
from testbed.data.encoded import Columns, is_image_type, pool_from_tables
from testbed.data.hub import hub_tables
from testbed.data.images import ImagePool
from testbed.data.tables import DATA_DIR_VARIABLE, EncodedTable, folder_tables, parquet_files

HUB_NAME_PATTERN = r"[A-Za-z0-9][\w.-]*/[\w.-]+"
LABEL_COLUMNS = ("label", "labels", "class", "fine_label")
PERSON_COLUMNS = ("person", "person_id", "identity", "subject", "subject_id", "writer_id")


class ParquetFolderOptions(Options):
    """The columns to read; null finds them by the metadata and by common names.

    ``mode`` converts every image to grey ("L") or "RGB"; null keeps the images' modes.
    """

    image_column: str | None = None
    label_column: str | None = None
    person_column: str | None = None
    mode: Mode | None = None


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
    if folder is not None:
        tables = folder_tables(folder)
    elif re.fullmatch(HUB_NAME_PATTERN, path):
        tables = hub_tables(path, f"no folder of that name with parquet files ({places[0]})")
    else:
        looked = " or ".join(str(place) for place in places)
        raise UserError(f"data.path: no parquet files in {looked}")
    return pool_from_tables(
        "parquet_folder",
        tables,
        _columns(tables[0], options),
        source=f"folder {folder.name}" if folder else f"hub {path}",
        image_size_px=image_size_px,
        max_images=max_images,
        mode=options.mode,
    )


def _columns(table: EncodedTable, options: ParquetFolderOptions) -> Columns:
    names = table.schema.names
    image = options.image_column or next(
        (name for name in names if is_image_type(table.schema.field(name).type)), None
    )
    declared = [n for n in names if table.feature(n).get("_type") == "ClassLabel"]
    usual = [name for name in LABEL_COLUMNS if name in names]
    label = options.label_column or next(iter(declared + usual), None)
    if image is None or label is None:
        missing = "image_column" if image is None else "label_column"
        raise UserError(
            f"{table.where}: cannot find the {missing} among {', '.join(names)}; set the option"
        )
    usual = [name for name in PERSON_COLUMNS if name in names]
    return Columns(image, label, options.person_column or next(iter(usual), None))
