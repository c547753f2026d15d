"""Freed tensors' memory stays with the process where the C library lets it."""

import platform
import subprocess
import sys

import pytest

from testbed.core.allocation import keep_freed_memory

PROGRAM = """
import resource, sys
import torch
from testbed.core.allocation import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def faults(n):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        torch.relu(torch.relu(torch.ones(1 << 18)))  # a megabyte each, two at a time
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(5)
print(faults(50))
"""


def faults(how: str) -> int:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    return int(ended.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_the_next_tensors_need_no_new_pages() -> None:
    kept, default = faults("kept"), faults("default")
    assert kept < 50, "a page fault per pass would be one too many"
    assert default > kept, "without the setting passes fault their pages anew"


def test_says_whether_the_c_library_has_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
