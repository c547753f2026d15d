"""Atomic file writing: a reader finds the old file or the new one, never half of one."""

import contextlib
import csv
import errno
import io
import json
import math
import os
import tempfile
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


def check_name(path: Path) -> None:
    """Check that a path's name can be written into texts and given to every library.

    Raises
    ------
    UserError : it is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{path}: this name is not UTF-8; rename it, or choose another") from None


def check_folder_for_output(folder: Path, advice: str = "choose a folder with --out") -> None:
    """Check that files can be written to a folder, which need not exist yet; nothing is changed.

    Parameters
    ----------
    advice : the end of messages.

    Raises
    ------
    UserError : its name is not UTF-8, a file has its name or that of a folder above it, or the
        system does not allow to write there.
    """
    check_name(folder)
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not nearest.is_dir():
            what = "the output" if nearest == folder else f"{nearest}, above the output,"
            raise UserError(f"{folder}: {what} is an existing file; {advice}")
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{folder}: cannot be written ({reason}); {advice}") from None


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
