"""The device that a process computes on, and the way of arrays to it and back.

Every process of a run (driver, hosts, adversaries) computes on one device, as it computes in one
number of threads. Whatever crosses between processes, is written or is drawn at random is on the
CPU: noise, batches and first weights are then the same on every device.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from testbed.core.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda"]
CPU = torch.device("cpu")
_device = CPU


def choose_device(name: DeviceName) -> torch.device:
    """Return the device that a scenario names.

    Raises
    ------
    UserError : there is no GPU for ``cuda``.
    """
    has_gpu = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise UserError(
            "engine.device: 'cuda' needs a GPU and a torch built for CUDA; give 'auto' or 'cpu'"
        )
    return torch.device("cuda") if has_gpu else CPU


def describe_device(device: torch.device, threads: int) -> str:
    """Return a text with all properties of the device that affect the last bits of a result."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda})"
    return f"cpu ({torch.backends.cpu.get_cpu_capability()}, {threads} threads)"


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Compute in the precision of the tensors; some devices, such as ``meta``, know no other."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def compute_device() -> torch.device:
    """Return the device that this process computes on: the CPU, unless `computing_on` says else."""
    return _device


def on_device(values: Tensor | NDArray[Any]) -> Tensor:
    """Return a tensor, or an array as a tensor, on this process's device; without need no copy."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    return tensor.to(_device)


def as_array(tensor: Tensor) -> NDArray[Any]:
    """Return the values of a tensor on any device as an array; on the CPU no copy."""
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array


@contextmanager
def computing_on(device: torch.device, memory_share: float = 1.0) -> Iterator[None]:
    """Let this process compute on a device; a GPU then computes the same bits every time.

    Parameters
    ----------
    memory_share : share of the GPU's memory that this process may allocate; with more it fails,
        instead of the processes beside it.
    """
    global _device
    before, _device = _device, device
    try:
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(memory_share)
            with _deterministic():
                yield
        else:
            yield
    finally:
        _device = before


@contextmanager
def _deterministic() -> Iterator[None]:
    """Ask for kernels whose sums have one order, in full float32; the log names those without."""
    # cuBLAS reads this when it creates its first handle; without it matrix products may differ.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    precision = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    flags = cudnn.benchmark, cudnn.allow_tf32
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("highest")
    cudnn.benchmark = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.set_float32_matmul_precision(precision)
        cudnn.benchmark, cudnn.allow_tf32 = flags
