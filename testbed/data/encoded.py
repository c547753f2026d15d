"""Builds an image pool from tables of encoded images; decodes only the selected rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from testbed.core.errors import UserError
from testbed.data.decoding import MODE_OPTION, Mode, decode_image, picture_key, to_channels_first
from testbed.data.images import ImagePool, IntArray, KeyArray, content_key, keep_by_content
from testbed.data.labels import MISSING, cells_of, check_labels, doubtful_names, number_labels
from testbed.data.tables import EncodedTable, Tables

IMAGE_BYTES = "images are read from JPEG or PNG bytes, or {bytes, path}, not from paths or pixels"
DARK = 32
"""If no value of most images reaches this, the images hardly use the range of 8 bits."""


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
    dataset: Tables,
    columns: Columns,
    source: str,
    *,
    image_size_px: int | None,
    max_images: int | None,
    mode: Mode | None = None,
    person_candidate: str | None = None,
) -> ImagePool:
    """Read tables, select images by content, and decode them.

    Rows without a class are left out, with a warning of their number.

    Parameters
    ----------
    name, source : as in ``ImagePool``.
    dataset : the files or splits of training rows and of official test rows.
    columns : of image, class and person.
    image_size_px : resize to this square; None keeps the native size.
    max_images : keep this many by the hash of their bytes, before decoding; None keeps all.
    mode : convert images to grey ("L") or "RGB"; None takes grey and RGB as they are.
    person_candidate : as in ``ImagePool``.

    Raises
    ------
    UserError : missing column, classes that cannot be matched over the files, an official test set
        without classes, corrupt file, undecodable image, or images of different shapes.
    """
    tables = dataset.items
    for table in tables:
        _check_columns(table, columns)
    keys: list[int] = []
    labels: list[list[Any]] = []
    persons: list[list[Any]] = []
    rows_of_table: list[int] = []
    for table in tables:
        rows_before = len(keys)
        labels.append([])
        persons.append([])
        for batch in table.batches(columns.names()):
            for row, content in enumerate(_encoded_bytes(batch, columns.image), len(keys)):
                if content is None:
                    raise UserError(
                        f"{table.where}, row {row - rows_before}: no image bytes in column "
                        f"'{columns.image}' (the cell is empty, or has only a path, which is not "
                        "read); write the images' bytes into the file, or leave the row out"
                    )
                keys.append(content_key(content))
            labels[-1].extend(cells_of(batch, columns.label))
            if columns.person is not None:
                persons[-1].extend(cells_of(batch, columns.person))
        rows_of_table.append(len(keys) - rows_before)
    classes = number_labels(tables, columns.label, labels)
    official = np.repeat([table.official_test for table in tables], rows_of_table)
    warnings = _check_classes(tables, columns.label, classes.codes, official)
    warnings += tuple(doubtful_names(tables, columns.label, classes.names))
    if len(np.unique(classes.codes[classes.codes != MISSING])) < 2:
        raise UserError(
            f"data.name={name}: fewer than two classes in column '{columns.label}' ({source})"
        )

    labelled = np.flatnonzero(classes.codes != MISSING)
    person_codes = None
    if columns.person is not None:
        identities = number_labels(tables, columns.person, persons)
        nameless = labelled[identities.codes[labelled] == MISSING]
        if len(nameless):
            table, row = _place(nameless[0], tables, rows_of_table)
            raise UserError(
                f"{table.where}, row {row}: column '{columns.person}' names no person (-1 or "
                "empty); name one in every row, or set data.options.person_column to false"
            )
        person_codes = identities.codes
        if columns.person != columns.label:
            warnings += tuple(doubtful_names(tables, columns.person, identities.names))
    ties = [codes for codes in (person_codes, classes.codes, official) if codes is not None]
    bytes_keys = np.array(keys, dtype=np.uint64)[labelled]
    kept = labelled[keep_by_content(bytes_keys, max_images, *(tie[labelled] for tie in ties))]
    if official.any() and len(np.unique(official[kept])) < 2:
        lost = "training files" if official[kept].all() else "official test set"
        raise UserError(f"data.max_images: {max_images} images are none of the {lost}; raise it")
    images, content_keys, oblong = _decode_rows(
        tables, rows_of_table, columns, kept, image_size_px, mode
    )
    notes = [
        *dataset.notes,
        f"images are in column '{columns.image}', classes in column '{columns.label}'",
    ]
    if oblong and image_size_px is not None:
        notes.append(
            f"{oblong:,} of {len(kept):,} images are not square and are stretched or shrunk to "
            f"{image_size_px}x{image_size_px} pixels"
        )
    warnings += tuple(_doubtful_images(images, classes.codes[kept], content_keys))
    return ImagePool(
        name=name,
        images=images,
        labels=classes.codes[kept],
        label_names=classes.names,
        persons=None if person_codes is None else person_codes[kept],
        official_test=official[kept] if official.any() and not official.all() else None,
        content_keys=content_keys,
        source=source,
        person_column=columns.person,
        person_candidate=person_candidate,
        notes=tuple(notes),
        warnings=warnings,
    )


def _check_columns(table: EncodedTable, columns: Columns) -> None:
    for column in columns.names():
        if column not in table.schema.names:
            raise UserError(
                f"{table.where}: no column '{column}'; it has "
                f"{', '.join(table.schema.names) or 'no columns'}"
            )
    kind = table.schema.field(columns.image).type
    if not is_image_type(kind):
        raise UserError(
            f"{table.where}: column '{columns.image}' holds {kind}, not images; {IMAGE_BYTES}"
        )
    for column in filter(None, (columns.label, columns.person)):
        check_labels(table, column)


def _check_classes(
    tables: list[EncodedTable],
    column: str,
    codes: IntArray,
    official: NDArray[np.bool_],
) -> tuple[str, ...]:
    """Refuse files in which no row has a class; return a warning of the single rows without one.

    The warning names no file: it is part of the results, which do not depend on the rows' files.
    """
    missing = codes == MISSING
    for what, rows in (("official test set", official), ("training files", ~official)):
        if rows.any() and missing[rows].all():
            where = ", ".join(t.where for t in tables if t.official_test == official[rows.argmax()])
            raise UserError(
                f"{where}: no row of the {what} has a class (column '{column}' is -1 or empty); "
                "leave these files out, or set data.options.test_split to another split or to null"
            )
    if not missing.any():
        return ()
    total, tested = int(missing.sum()), int((missing & official).sum())
    of_test = f", {tested:,} of them in the official test set" if tested else ""
    having = "1 row has" if total == 1 else f"{total:,} of {len(codes):,} rows have"
    left_out = "is left out" if total == 1 else "are left out"
    return (f"{having} no class (-1 or empty) and {left_out}{of_test}",)


def _doubtful_images(
    images: NDArray[np.uint8], labels: IntArray, content_keys: KeyArray
) -> Iterator[str]:
    """Yield warnings of images that are nearly black, and of pictures of several classes."""
    brightest = images.reshape(len(images), -1).max(axis=1)
    dark = brightest[brightest < DARK]
    if len(dark) > len(images) / 2:
        yield (
            f"no value of {len(dark):,} of {len(images):,} images is above {dark.max()} of 255, as "
            "of 12-bit values in 16-bit files; scale the files to their full range"
        )
    pairs = np.unique(np.stack([content_keys, labels.astype(np.uint64)]), axis=1)
    several = int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())
    if several:
        many = "1 picture is" if several == 1 else f"{several:,} pictures are"
        yield f"{many} in the files more than once, with different classes"


def _place(
    position: int, tables: list[EncodedTable], rows_of_table: list[int]
) -> tuple[EncodedTable, int]:
    """Return the table and the row in it of a row counted over all tables."""
    ends = np.cumsum(rows_of_table)
    table = int(np.searchsorted(ends, position, side="right"))
    return tables[table], int(position - ends[table] + rows_of_table[table])


def is_image_type(kind: pa.DataType) -> bool:
    """Whether a column can hold encoded images: bytes, or the hub's {bytes, path}."""
    if pa.types.is_struct(kind):
        field = kind.get_field_index("bytes")
        return field >= 0 and is_image_type(kind.field(field).type)
    bytes_types = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_bytes(kind) for is_bytes in bytes_types)


def _encoded_bytes(batch: pa.RecordBatch, column: str) -> list[bytes | None]:
    cells = batch.column(column)
    if pa.types.is_struct(cells.type):
        cells = cells.field("bytes")
    contents: list[bytes | None] = cells.to_pylist()
    return contents


def _decode_rows(
    tables: list[EncodedTable],
    rows_of_table: list[int],
    columns: Columns,
    kept: IntArray,
    image_size_px: int | None,
    mode: Mode | None,
) -> tuple[NDArray[np.uint8], KeyArray, int]:
    """Decode the rows ``kept`` (ascending, counted over all tables).

    Returns
    -------
    uint8 (N', C, H, W); of the pictures before resizing, the content keys (N',), and how many are
    not square.
    """
    images: NDArray[np.uint8] | None = None
    keys = np.empty(len(kept), dtype=np.uint64)
    done = oblong = 0
    first_row = 0
    for table, rows in zip(tables, rows_of_table, strict=True):
        batch_start = first_row
        for batch in table.batches([columns.image]):
            contents = _encoded_bytes(batch, columns.image)
            batch_end = batch_start + len(contents)
            stop = int(np.searchsorted(kept, batch_end))
            for row in kept[done:stop]:
                where = f"{table.where}, row {row - first_row}"
                content = contents[row - batch_start]
                assert content is not None
                picture = decode_image(content, where, convert=mode is not None)
                keys[done] = picture_key(picture)
                oblong += picture.width != picture.height
                image = to_channels_first(picture.convert(mode or picture.mode), image_size_px)
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
    return images, keys, oblong


def _shape(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width}x{height} {'grey' if channels == 1 else 'RGB'}"


def _remedy(one: tuple[int, ...], other: tuple[int, ...]) -> str:
    if one[0] != other[0]:
        return f"all must be grey or all RGB; to convert them, set {MODE_OPTION}"
    return "set data.image_size_px to resize all to one size"
