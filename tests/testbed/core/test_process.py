"""The process keeps the memory of freed tensors where the C library can, and collects little."""

import ctypes
import gc
import platform
import subprocess
import sys

import pytest

from testbed.core.process import PeakMemory, tune_malloc, without_collections

PROGRAM = """
import ctypes, sys
import torch
from testbed.core.process import tune_malloc

FIELDS = ("arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost").split()

class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo

if sys.argv[1] == "kept":
    tune_malloc()
before = mallinfo2()
tensor = torch.ones(6 << 20)
while_held = mallinfo2()
del tensor
after = mallinfo2()
print(while_held.hblkhd - before.hblkhd, after.fordblks - while_held.fordblks)
"""
TENSOR_BYTES = 4 * 6 << 20


def bytes_of_one_tensor(how: str) -> tuple[int, int]:
    """Return the bytes mapped for one tensor, and those that stay free in the process."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    mapped, kept = ended.stdout.split()
    return int(mapped), int(kept)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="a setting of glibc, which tells its statistics since 2.33",
)
def test_the_memory_of_a_freed_tensor_stays() -> None:
    mapped, kept = bytes_of_one_tensor("kept")
    assert mapped < TENSOR_BYTES <= kept
    mapped, kept = bytes_of_one_tensor("default")
    assert kept < TENSOR_BYTES <= mapped, "without the setting it comes and goes with its pages"


TRIM = """
import torch
from testbed.core.process import trim_malloc, tune_malloc

def resident_pages():
    return int(open("/proc/self/statm").read().split()[1])

tune_malloc()
tensor = torch.ones(6 << 20)
above = torch.ones(1000)  # keeps the freed memory away from the end of the heap
del tensor
kept = resident_pages()
trim_malloc()
print(4096 * (kept - resident_pages()))
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or sys.platform != "linux", reason="a function of glibc"
)
def test_the_memory_of_a_freed_tensor_goes_when_told() -> None:
    ended = subprocess.run([sys.executable, "-c", TRIM], capture_output=True, text=True, check=True)
    assert int(ended.stdout) > 0.9 * TENSOR_BYTES


def test_returns_whether_the_c_library_has_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tune_malloc() == (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not tune_malloc()


def test_no_collection_visits_what_was_made_without_collections() -> None:
    frozen = gc.get_freeze_count()
    try:
        with without_collections():
            with without_collections():
                made = [[] for _ in range(10_000)]
            assert not gc.isenabled(), "the inner context leaves it as it was"
        assert gc.isenabled()
        assert gc.get_freeze_count() >= frozen + len(made)
    finally:
        gc.unfreeze()


def test_collections_come_back_after_an_error() -> None:
    try:
        with pytest.raises(ImportError), without_collections():
            raise ImportError
        assert gc.isenabled()
    finally:
        gc.unfreeze()


def test_the_end_of_a_process_visits_nothing() -> None:
    program = (
        "import atexit, gc; from testbed.core.process import no_collection_at_exit; "
        "atexit.register(lambda: print(gc.get_freeze_count() > 0)); no_collection_at_exit(); "
        "atexit.register(lambda: print(gc.get_freeze_count() > 0))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.split() == ["False", "True"]  # atexit calls the last function first


DROPPED = """
import os, signal, weakref
from testbed.core.process import Interrupts

class Kept:
    pass

with Interrupts() as interrupts:
    kept = Kept()
    weakref.finalize(kept, os.kill, os.getpid(), signal.SIGINT)
    del kept
    for _ in range(1000):
        pass
    print(interrupts.requested)
    weakref.finalize(Kept(), int, "x")
"""


def test_an_interrupt_in_a_callback_is_recorded_and_not_printed() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", DROPPED], capture_output=True, text=True, check=False
    )
    assert ended.stdout == "True\n"
    assert "KeyboardInterrupt" not in ended.stderr
    assert "ValueError" in ended.stderr  # other errors are


@pytest.mark.skipif(platform.system() != "Linux", reason="the peak begins anew on Linux only")
def test_the_peak_of_a_part_is_above_what_was_held_before_it():
    import numpy as np

    peak = PeakMemory()
    held_before = np.ones(4 << 20)  # 32 MB that the part does not count
    held = peak.begin()
    assert held is not None
    largest = np.ones(8 << 20)
    taken = largest.nbytes / 2**20
    del largest
    assert taken - 2 <= peak.above(held) < taken + 16
    in_all = peak.total_mb()
    held = peak.begin()
    assert peak.above(held) < 16
    assert peak.total_mb() == in_all  # beginning anew does not lower it
    assert held_before.nbytes == 32 << 20
    assert peak.above(None) is None
