"""Settings of a process: telemetry, interrupts, memory and garbage collection."""

import atexit
import contextlib
import ctypes
import gc
import os
import platform
import resource
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

from testbed.core.project import PROJECT_ROOT

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_ON_HEAP_BYTES = 32 << 20
"""Larger blocks do not come from the heap; the maximum that glibc allows on 64-bit machines."""
KEPT_BYTES = 256 << 20
"""Free memory at the heap's end that the process keeps."""


def tune_malloc() -> bool:
    """Keep the memory of freed tensors in this process; return whether the C library can.

    With glibc's defaults a tensor of some hundred kilobytes goes back to the operating system as
    soon as it is freed, and the memory of the next one is faulted in again, page by page. A forward
    pass of a small network spends more time on page faults than on arithmetic. The process holds
    at most `KEPT_BYTES` of idle memory. Results do not change.

    Only glibc has these settings (``mallopt(3)``); elsewhere nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(
        mallopt(M_MMAP_THRESHOLD, LARGEST_ON_HEAP_BYTES) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    )


def trim_malloc() -> None:
    """Return this process's free memory to the operating system, as ``tune_malloc`` prevents.

    For the end of a phase: the next one needs other memory, perhaps in other processes.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


class PeakMemory:
    """The most memory that this process held at once, in all and in a part of its work.

    Linux counts the peak of a process and can begin anew; elsewhere a part's peak is unknown.
    """

    def __init__(self) -> None:
        self._before_mb = 0.0

    def total_mb(self) -> float:
        """Return the peak since the process started."""
        per_mb = 1024.0**2 if sys.platform == "darwin" else 1024.0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_mb
        return max(self._before_mb, peak)

    def begin(self) -> float | None:
        """Begin a part; return what the process holds, or None where its peak is unknown."""
        self._before_mb = self.total_mb()
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # man 5 proc
        except OSError:
            return None
        return _status_mb("VmRSS")

    def above(self, held_mb: float | None) -> float | None:
        """Return the peak since ``begin`` above what was held then."""
        return None if held_mb is None else max(0.0, _status_mb("VmHWM") - held_mb)


PEAK_MEMORY = PeakMemory()


def _status_mb(field: str) -> float:
    """Return a size from the process's status, which Linux gives in units of 1024 bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    line = next(line for line in lines if line.startswith(f"{field}:"))
    return float(line.split()[1]) / 1024.0


def freeze_gc() -> None:
    """Exclude all current objects of this process from Python's garbage collection.

    The libraries create some hundred thousand objects, which live as long as the process. A full
    collection visits all of them, which takes a quarter of a second, and a round with many replies
    triggers several. ``gc.unfreeze()`` reverts it.
    """
    gc.freeze()


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Import in this context without Python's garbage collection, which later excludes the objects.

    What imports create stays, but every collection visits it: a fifth of the time that torch and
    Flower take to import.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            freeze_gc()
            gc.enable()


def no_collection_at_exit() -> None:
    """Let this process end without the last garbage collection, whose memory is freed anyway."""
    atexit.register(gc.freeze)


def stop_telemetry() -> None:
    """Disable the telemetry of Flower and Ray; call it before they are imported."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def no_compiler_cache() -> None:
    """Keep PyTorch from creating an empty folder for compiled code.

    ``torch._dynamo`` creates ``torchinductor_USER`` in the temporary folder when it is imported,
    unless the variable names an existing folder.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.gettempdir())


def project_python_path() -> str:
    """Return ``PYTHONPATH`` with the project first, for processes that this one starts."""
    return os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))


class Interrupts:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt, and records that one came.

    Python drops one that it raises in a destructor or in the callback of a weak reference, and
    prints where; the record is left, and nothing is printed.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}
        self._report = sys.unraisablehook

    def __enter__(self) -> Self:
        self._report, sys.unraisablehook = sys.unraisablehook, self._unraisable
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *error: object) -> None:
        sys.unraisablehook = self._report
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _unraisable(self, dropped: "sys.UnraisableHookArgs") -> None:
        if dropped.exc_type is not KeyboardInterrupt:
            self._report(dropped)

    def _interrupt(self, number: int, frame: FrameType | None) -> NoReturn:
        self.requested = True
        raise KeyboardInterrupt
