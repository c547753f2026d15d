"""Writing a file all or nothing: a reader finds the old one or the new one, never half of it."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError


@contextlib.contextmanager
def whole_file(path: Path, suffix: str = ".tmp") -> Iterator[Path]:
    """Give a temporary path beside ``path``; move it there at the end, or remove it on an error.

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
        if isinstance(error, SafetensorError):  # its text alone says what the system said
            raise OSError(errno.EIO, f"cannot be written ({error})", str(path)) from None
        if isinstance(error, OSError) and error.filename is None:
            reason = error.strerror or str(error)
            raise OSError(error.errno or errno.EIO, reason, str(path)) from None
        raise
