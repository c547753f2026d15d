"""Builds an image pool from tables of encoded images; decodes only the selected rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from testbed.core.errors import UserError
from testbed.data.decoding import Mode, decode_image
from testbed.data.images import ImagePool, IntArray, content_key, keep_by_content
from testbed.data.tables import EncodedTable


@dataclass(frozen=True)
class Columns:
    """Names of the columns that hold image, class and (where there is one) person."""

    image: str
    label: str
    person: str | None = None

    def names(self) -> list[str]:
        """Return the distinct column names."""
        return list(dict.fromkeys(filter(None, (self.image, self.label, self.person))))


def pool_from_tables(
    name: str,
    tables: list[EncodedTable],
    columns: Columns,
    source: str,
    *,
    image_size_px: int | None,
    max_images: int | None,
    mode: Mode | None = None,
) -> ImagePool:
    """Read tables, select images by content, and decode them.

    Parameters
    ----------
    name, source : as in ``ImagePool``.
    tables : the files or splits of training rows and of official test rows.
    columns : of image, class and person.
    image_size_px : resize to this square; None keeps the native size.
    max_images : keep this many by content hash, before decoding; None keeps all.
    mode : convert images to grey ("L") or "RGB"; None takes them as they are.

    Raises
    ------
    UserError : missing column, corrupt file, undecodable image, or images of different shapes.
    """
    for table in tables:
        _check_columns(table, columns)
    keys: list[int] = []
    labels: list[Any] = []
    persons: list[Any] = []
    rows_of_table: list[int] = []
    for table in tables:
        rows_before = len(keys)
        for batch in table.batches(columns.names()):
            for row, content in enumerate(_encoded_bytes(batch, columns.image), len(keys)):
                if content is None:
                    raise UserError(f"{table.where}, row {row - rows_before}: no image bytes")
                keys.append(content_key(content))
            labels.extend(batch.column(columns.label).to_pylist())
            if columns.person is not None:
                persons.extend(batch.column(columns.person).to_pylist())
        rows_of_table.append(len(keys) - rows_before)
    if not keys:
        raise UserError(f"data.name={name}: no rows in {source}")

    content_keys = np.array(keys, dtype=np.uint64)
    kept = keep_by_content(content_keys, max_images)
    names = _class_names(tables, columns.label)
    label_codes, label_names = _codes(labels, names, f"{source}, column '{columns.label}'")
    person_codes = None
    if columns.person is not None:
        person_codes = _codes(persons, None, f"{source}, column '{columns.person}'")[0][kept]
    official = np.repeat([table.official_test for table in tables], rows_of_table)
    return ImagePool(
        name=name,
        images=_decode_rows(tables, rows_of_table, columns, kept, image_size_px, mode),
        labels=label_codes[kept],
        label_names=label_names,
        persons=person_codes,
        official_test=official[kept] if official.any() and not official.all() else None,
        content_keys=content_keys[kept],
        source=source,
    )


def _check_columns(table: EncodedTable, columns: Columns) -> None:
    for column in columns.names():
        if column not in table.schema.names:
            raise UserError(
                f"{table.where}: no column '{column}'; it has {', '.join(table.schema.names)}"
            )
    kind = table.schema.field(columns.image).type
    if not is_image_type(kind):
        raise UserError(f"{table.where}: column '{columns.image}' holds {kind}, not images")
    for column in filter(None, (columns.label, columns.person)):
        kind = table.schema.field(column).type
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not (text or pa.types.is_integer(kind)):
            raise UserError(
                f"{table.where}: column '{column}' holds {kind}; whole numbers or text are read"
            )


def is_image_type(kind: pa.DataType) -> bool:
    """Whether a column can hold encoded images: bytes, or the hub's {bytes, path}."""
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _encoded_bytes(batch: pa.RecordBatch, column: str) -> list[bytes | None]:
    cells = batch.column(column)
    if pa.types.is_struct(cells.type):
        cells = cells.field("bytes")
    contents: list[bytes | None] = cells.to_pylist()
    return contents


def _class_names(tables: list[EncodedTable], column: str) -> list[str] | None:
    for table in tables:
        names = table.feature(column).get("names")
        if names:
            return [str(name) for name in names]
    return None


def _codes(values: list[Any], names: list[str] | None, where: str) -> tuple[IntArray, list[str]]:
    """Return codes from 0 and their names; without ``names``, in the order of the values."""
    if any(value is None for value in values):
        raise UserError(f"{where}: row {values.index(None)} is empty")
    if names is not None and isinstance(values[0], int):
        codes = np.array(values, dtype=np.int64)
        if codes.min() < 0 or codes.max() >= len(names):
            raise UserError(
                f"{where}: values {codes.min()} to {codes.max()}, but there are "
                f"{len(names)} classes, 0 to {len(names) - 1}"
            )
        return codes, names
    unique, inverse = np.unique(np.array(values), return_inverse=True)
    return inverse.astype(np.int64), [str(value) for value in unique]


def _decode_rows(
    tables: list[EncodedTable],
    rows_of_table: list[int],
    columns: Columns,
    kept: IntArray,
    image_size_px: int | None,
    mode: Mode | None,
) -> NDArray[np.uint8]:
    """Decode the rows ``kept`` (ascending, counted over all tables) to uint8 (N', C, H, W)."""
    images: NDArray[np.uint8] | None = None
    done = 0
    first_row = 0
    for table, rows in zip(tables, rows_of_table, strict=True):
        batch_start = first_row
        for batch in table.batches([columns.image]):
            contents = _encoded_bytes(batch, columns.image)
            batch_end = batch_start + len(contents)
            stop = int(np.searchsorted(kept, batch_end))
            for row in kept[done:stop]:
                where = f"{table.where}, row {row - first_row}"
                image = decode_image(contents[row - batch_start], where, image_size_px, mode)
                if images is None:
                    images = np.empty((len(kept), *image.shape), dtype=np.uint8)
                if image.shape != images.shape[1:]:
                    raise UserError(
                        f"{where}: the image is {_shape(image.shape)}, the previous ones are "
                        f"{_shape(images.shape[1:])}; {_remedy(image.shape, images.shape[1:])}"
                    )
                images[done] = image
                done += 1
            batch_start = batch_end
        first_row += rows
    assert images is not None
    return images


def _shape(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width}x{height} {'grey' if channels == 1 else 'RGB'}"


def _remedy(one: tuple[int, ...], other: tuple[int, ...]) -> str:
    if one[0] != other[0]:
        return "all must be grey or all RGB"
    return "set data.image_size_px to resize all to one size"
