"""Settings of a process of the fleet: telemetry, interrupts, memory and garbage collection."""

import ctypes
import gc
import os
import platform
import signal
import tempfile
import threading
from types import FrameType
from typing import Any, NoReturn, Self

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_ON_HEAP_BYTES = 32 << 20
"""Blocks up to so many bytes come from the heap; glibc allows no more on 64-bit machines."""
KEPT_BYTES = 256 << 20
"""So much free memory at the heap's end stays with the process."""


def tune_malloc() -> bool:
    """Let this process keep the memory of freed tensors for the next ones; say whether it does.

    With glibc's defaults a tensor of some hundred kilobytes goes back to the operating system as
    soon as it is freed, and the next one is faulted in anew, page by page; a forward pass of a
    small network spends more time there than on its arithmetic. The price is at most
    `KEPT_BYTES` of idle memory per process. Arithmetic and results are the same.

    Only glibc has these settings (``mallopt(3)``); elsewhere nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(
        mallopt(M_MMAP_THRESHOLD, LARGEST_ON_HEAP_BYTES) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    )


def freeze_gc() -> None:
    """Let Python's garbage collector pass over all objects that this process has now.

    The libraries alone bring some hundred thousand, which live as long as the process does. A full
    collection looks at every one of them, a quarter of a second each time, and a round with many
    replies sets off several. ``gc.unfreeze()`` takes it back.
    """
    gc.freeze()


def stop_telemetry() -> None:
    """Keep Flower and Ray from phoning home; works only before they are imported."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def no_compiler_cache() -> None:
    """Keep PyTorch from leaving an empty folder for compiled code, of which there is none here.

    ``torch._dynamo`` makes ``torchinductor_USER`` in the temporary folder as soon as something
    imports it; where the variable names a folder that is there, none is made.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.gettempdir())


class Interrupts:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt, and remembers that one came."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> NoReturn:
        self.requested = True
        raise KeyboardInterrupt
