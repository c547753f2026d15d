"""Atomic file writing: a reader finds the old file or the new one, never half of one."""

import contextlib
import csv
import errno
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from testbed.core.errors import UserError


@contextlib.contextmanager
def whole_file(path: Path, suffix: str = ".tmp") -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it to ``path``, or remove it after an error.

    Raises
    ------
    OSError : the disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary = path.with_name(path.name + suffix)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, SafetensorError):  # only its text holds the system's error
            raise OSError(errno.EIO, f"cannot be written ({error})", str(path)) from None
        if isinstance(error, OSError) and error.filename is None:
            reason = error.strerror or str(error)
            raise OSError(error.errno or errno.EIO, reason, str(path)) from None
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and the folders above it, atomically.

    Raises
    ------
    UserError : the folder cannot be written, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two commands may write the same file at once.
        with whole_file(path, f".{os.getpid()}.tmp") as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file, all or nothing."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, tree: Any) -> None:
    """Write JSON, all or nothing; NaN and infinity become null, the same tree the same bytes."""
    write_text(path, json.dumps(_finite(tree), indent=1, allow_nan=False) + "\n")


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Iterable[str] = ()) -> str:
    """Return rows as CSV with the given columns, then those of the rows; None is an empty cell."""
    rows = list(rows)
    names = dict.fromkeys([*columns, *(column for row in rows for column in row)])
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _finite(tree: Any) -> Any:
    """Return the tree with null in place of every number that is not finite."""
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
