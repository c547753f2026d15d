"""Pooling, gating and narrow convolutions of triplet attention, with gradients of their own.

PyTorch's generic kernels are slow where these gates need them. A maximum or a mean over an axis
that is not the innermost in memory runs one element at a time, its gradient makes several passes
over the features, and the gradient of a 7x7 convolution to one channel uses none of the processor's
vector units. The functions here give the same values and gradients, except for rounding, on
features in the memory layout ``torch.channels_last``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from testbed.core.compute import without_autocast

KERNEL = 7
"""Side of the kernels of attention gates."""
PAD = KERNEL // 2
LONGEST_BAND = 64
"""Longest axis that the band matrix is used for; its work grows with the square of the axis."""
AXES = (2, 3, 1)
"""Axes that are pooled, in the order of ``pools``: height, width, channels."""

_composed = False


@contextmanager
def composed_layers() -> Iterator[None]:
    """Run layers and penalties by their published operations, which a device is charged for.

    The faster forms that the simulation computes with would be counted differently.
    """
    global _composed
    before, _composed = _composed, True
    try:
        yield
    finally:
        _composed = before


def composing() -> bool:
    """Return whether operations run as published, inside of ``composed_layers``."""
    return _composed


def must_compose(module: nn.Module) -> bool:
    """Return whether something observes the parts of ``module``: counters, int8's rounding."""
    return _composed or any(part._forward_hooks for part in module.modules() if part is not module)


def spatial_mean(x: Tensor) -> Tensor:
    """Return the mean (N, C) of features over height and width.

    The gradient of a sum is a view; that of ``mean`` is a copy in a layout that is slow to add.
    """
    if _composed:
        return x.mean(dim=(2, 3))
    return x.sum(dim=(2, 3)) / (x.shape[2] * x.shape[3])


def _window(x: Tensor, axis: int) -> tuple[int, int]:
    return (x.shape[2], 1) if axis == 2 else (1, x.shape[3])


def _peak(x: Tensor, axis: int) -> Tensor:
    if axis == 1:
        return x.amax(dim=1, keepdim=True)
    return functional.max_pool2d(x, _window(x, axis))


def _mean(x: Tensor, axis: int) -> Tensor:
    if axis == 1:
        return x.mean(dim=1, keepdim=True)
    return functional.avg_pool2d(x, _window(x, axis))


def _in_layout(part: Tensor) -> Tensor:
    """Return a part in the layout of the features; others slow down what it is broadcast into."""
    return part.contiguous(memory_format=torch.channels_last)


class _Pools(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        peaks = [_peak(x, axis) for axis in AXES]
        ctx.save_for_backward(x, *peaks)
        return (*peaks, *(_mean(x, axis) for axis in AXES))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, *peaks = ctx.saved_tensors
        of_peaks, of_means = gradients[: len(AXES)], gradients[len(AXES) :]
        total = _total(
            [_in_layout(part) / x.shape[axis] for part, axis in zip(of_means, AXES, strict=True)]
        )
        for axis, gradient, peak in zip(AXES, of_peaks, peaks, strict=True):
            # Equal maxima share the gradient, as in torch.amax.
            reached = torch.empty_like(x, requires_grad=False)
            torch.eq(x.detach(), peak.detach(), out=reached)
            share = _in_layout(gradient) / (_mean(reached, axis) * x.shape[axis])
            total = torch.addcmul(total, reached, share)
        return total


def pools(x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return maximum and mean of features (N, C, H, W) over each of ``AXES``, which are kept."""
    pooled = _Pools.apply(x)  # type: ignore[no-untyped-call]
    return list(zip(pooled[: len(AXES)], pooled[len(AXES) :], strict=True))


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *gates: Tensor) -> Tensor:
        ctx.save_for_backward(x, *gates)
        return _total(gates).mul_(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        x, *gates = ctx.saved_tensors
        product = gradient * x
        of_gates = [_mean(product, axis) * x.shape[axis] for axis in AXES]
        return (gradient * _total(gates), *of_gates)


def _total(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of parts that have size 1 along one of ``AXES`` each."""
    height, width, channels = parts
    return (height + width).add_(channels)


def gated(x: Tensor, gates: Sequence[Tensor]) -> Tensor:
    """Return ``x`` times the sum of three gates, which have size 1 along one of ``AXES`` each."""
    parts = [_in_layout(gate.to(x.dtype)) for gate in gates]
    product: Tensor = _Gated.apply(x, *parts)  # type: ignore[no-untyped-call]
    return product


@lru_cache(maxsize=32)
def _band_places(channels: int, short: int, device: torch.device) -> Tensor:
    """Return the place in the flat weight (or one past its end) of each entry of ``_band``."""
    target = torch.arange(short)[:, None, None, None]
    row = torch.arange(KERNEL)[None, :, None, None]
    channel = torch.arange(channels)[None, None, :, None]
    source = torch.arange(short)[None, None, None, :]
    column = source - target + PAD
    inside = (column >= 0) & (column < KERNEL)
    place = (channel * KERNEL + row) * KERNEL + column
    return torch.where(inside, place, channels * KERNEL**2).flatten().to(device)


def _band(weight: Tensor, short: int) -> Tensor:
    """Return a kernel as matrices (short, KERNEL, channels * short) that act on whole rows."""
    places = _band_places(len(weight), short, weight.device)
    padded = functional.pad(weight.flatten(), (0, 1))
    return padded.index_select(0, places).view(short, KERNEL, len(weight) * short)


def _along_rows(rows: Tensor, matrices: Tensor) -> Tensor:
    """Convolve rows (N, length, A) with matrices (B, KERNEL, A) to (N, length, B)."""
    # The entries of a row are the channels of a one-dimensional convolution.
    images, kernels = (part.unsqueeze(2).permute(0, 3, 1, 2) for part in (rows, matrices))
    return functional.conv2d(images, kernels, padding=(PAD, 0)).squeeze(3).transpose(1, 2)


class _BandConvolution(torch.autograd.Function):
    """Convolves whole rows: a band matrix for each row of the kernel acts on all their entries."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(maps, weight)
        return _along_rows(maps.flatten(2), _band(weight, maps.shape[3]))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        maps, weight = ctx.saved_tensors
        images, length, channels, short = maps.shape
        turned = _band(weight, short).flip(1).permute(2, 1, 0).contiguous()
        of_rows = _along_rows(gradient.contiguous(), turned)
        padded = functional.pad(maps.flatten(2), (0, 0, PAD, PAD))
        window, step = KERNEL * channels * short, channels * short
        strides = ((length + 2 * PAD) * step, step, 1)
        windows = padded.as_strided((images, length, window), strides).reshape(-1, window)
        of_band = gradient.reshape(-1, short).t() @ windows
        places = _band_places(channels, short, weight.device)
        zeros = gradient.new_zeros(channels * KERNEL**2 + 1)
        flat = zeros.index_add(0, places, of_band.flatten())
        return of_rows.view(maps.shape), flat[:-1].view(channels, KERNEL, KERNEL)


def convolve(layer: nn.Conv2d, maps: Sequence[Tensor]) -> Tensor:
    """Return the bias-free 7x7 convolution of maps to one channel.

    Parameters
    ----------
    layer : its weight is (1, len(maps), 7, 7).
    maps : the input channels, (N, A, B) each.

    Returns
    -------
    (N, 1, A, B), in the layer's precision also under autocast.
    """
    weight, (rows, columns) = layer.weight[0], maps[0].shape[1:]
    if min(rows, columns) > LONGEST_BAND:
        result: Tensor = layer(torch.stack(list(maps), dim=1))
        return result
    turned = rows < columns
    if turned:
        weight, maps = weight.transpose(1, 2), [part.transpose(1, 2) for part in maps]
    stacked = torch.stack(list(maps), dim=2).to(weight.dtype)
    with without_autocast(weight.device):
        convolved: Tensor = _BandConvolution.apply(stacked, weight)  # type: ignore[no-untyped-call]
    if turned:
        convolved = convolved.transpose(1, 2)
    return convolved.unsqueeze(1)
