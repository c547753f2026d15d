"""Limits the threads of a computation: their number sets the order of sums, and so their bits."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Run with this many PyTorch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch and NumPy's BLAS in one thread."""
    with threadpool_limits(1, user_api="blas"), torch_threads(1):
        yield
