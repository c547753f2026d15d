"""The device of central training, its precision, and deterministic GPU kernels."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from testbed.core.errors import UserError
from testbed.scenario.training import ProviderSection

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(section: ProviderSection) -> torch.device:
    """Return the device to train on.

    Raises
    ------
    UserError : there is no GPU for ``cuda``, or the device lacks the precision.
    """
    has_gpu = torch.cuda.is_available()
    if section.device == "cuda" and not has_gpu:
        raise UserError(
            "training.provider.device: 'cuda' needs a GPU and a torch built for CUDA; "
            "give 'auto' or 'cpu'"
        )
    on_gpu = has_gpu and section.device != "cpu"
    if section.precision == "fp16" and not on_gpu:
        raise UserError(
            "training.provider.precision: 'fp16' needs a GPU; give 'fp32' or 'bf16' on the CPU"
        )
    return torch.device("cuda" if on_gpu else "cpu")


def describe_device(device: torch.device, threads: int) -> str:
    """Return a text with all properties of the device that affect the last bits of a training."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda})"
    return f"cpu ({torch.backends.cpu.get_cpu_capability()}, {threads} threads)"


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Make a GPU compute the same bits every time, as a CPU does; slightly slower."""
    if device.type != "cuda":
        yield
        return
    # cuBLAS reads this when it creates its first handle; without it matrix products may differ.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
