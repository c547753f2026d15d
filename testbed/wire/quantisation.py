"""Uniform quantisation of features, with a straight-through gradient.

Affine quantisation with an integer zero point, value = step * (code - zero point), so that zero is
represented exactly (Jacob et al. 2018, arXiv 1712.05877, eq. 1). Range and step are computed per
image, so that a released image does not depend on the others of its batch.
"""

import torch
from torch import Tensor

STEP_BITS = 16
"""Significant bits of a step. Its multiples up to 255 are then exact in float32, and
``testbed.wire.encoding`` can recover the step from the values."""

SMALLEST_STEP = 1e-30  # below it products leave the normal range of float32


def straight_through(value: Tensor, z: Tensor) -> Tensor:
    """Return ``value`` with the gradient of ``z`` (Bengio et al. 2013, arXiv 1308.3432).

    The bits are those of ``value``: the added difference is exactly zero.
    """
    return value.detach() + (z - z.detach())


def quantise(z: Tensor, bits: int) -> Tensor:
    """Round each image's features to 2^bits equally spaced values that include zero.

    Parameters
    ----------
    z : features (N, ...).
    bits : 8 or fewer.

    Returns
    -------
    The rounded features; their gradient is passed straight through to ``z``.
    """
    levels = 2**bits - 1
    flat = z.detach().flatten(1).double()
    low, high = flat.amin(dim=1).clamp_max(0.0), flat.amax(dim=1).clamp_min(0.0)
    # Rounded up, so that the levels cover the range.
    mantissa, exponent = torch.frexp((high - low) / levels)
    step = torch.ldexp(torch.ceil(mantissa * 2.0**STEP_BITS) * 2.0**-STEP_BITS, exponent)
    step = torch.where(step < SMALLEST_STEP, 0.0, step)[:, None]
    usable = torch.where(step == 0.0, 1.0, step)
    zero_point = torch.round(-low[:, None] / usable)
    codes = torch.round(flat / usable).clamp(-zero_point, levels - zero_point)
    # Adding zero turns -0.0 into 0.0, which has an integer code.
    value = (codes * step + 0.0).to(z.dtype).reshape(z.shape)
    return straight_through(value, z)
