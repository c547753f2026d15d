"""Threads and precision of the provider's training, where the scenario leaves them to the machine.

Both change results, so both are written into the resolved scenario, which then gives the same bits
on any machine with this many threads and this number format.
"""

import torch

from testbed.core.errors import UserError
from testbed.core.threads import available_cores
from testbed.scenario.training import MOST_THREADS, ProviderSection

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Extensions of a processor (x86, ARM) that multiply bf16."""


def has_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bf16; without, torch emulates it, slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in CPU_BF16)


def threads_of(section: ProviderSection) -> int:
    """Return the torch threads of the training: all cores of this machine by default."""
    return section.threads or min(available_cores(), MOST_THREADS)


def settled(section: ProviderSection, device: torch.device) -> ProviderSection:
    """Return the section with the threads and the precision that it trains with on this machine.

    Raises
    ------
    UserError : the device lacks the precision.
    """
    if section.precision == "fp16" and device.type != "cuda":
        raise UserError(
            "training.provider.precision: 'fp16' needs a GPU, and engine.device computes on the "
            "CPU; give 'fp32', 'bf16' or 'auto'"
        )
    precision = section.precision
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    return section.model_copy(update={"precision": precision, "threads": threads_of(section)})


def emulated(section: ProviderSection, device: torch.device) -> str | None:
    """Return a sentence if this machine has to emulate the precision, else None."""
    if section.precision != "bf16" or has_bf16(device):
        return None
    return (
        "training.provider.precision: this machine has no arithmetic in bf16 and emulates it, "
        "slower than fp32; 'auto' or 'fp32' trains faster"
    )
