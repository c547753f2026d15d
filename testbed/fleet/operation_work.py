"""Counts the work of any computation, gradients included: what a device does beside its layers.

The front-end itself is counted by ``testbed.fleet.layer_stats``, and its backward pass by the
published rule. A defence's penalty follows no such rule: it may compare all images of a batch.
Therefore it runs once, with its gradients, and every operation is counted.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from testbed.fleet.calibration.latency_form import NetworkCosts
from testbed.fleet.layer_stats import FOLDED_OPS
from testbed.fleet.operation_counts import (
    Counting,
    Escapes,
    complex_factor,
    formula,
    is_light,
    unfused,
)

aten = torch.ops.aten


def _cdist_backward(gradient: Tensor, a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> int:
    return 2 * a.numel() * b.shape[-2]


def _cubic(flops_per_cube: float) -> Callable[..., int]:
    """Return the FLOPs of a decomposition of square matrices (.., n, n)."""
    return lambda a, *args, **kwargs: math.ceil(flops_per_cube * a.numel() * a.shape[-1])


_FORMULAS: dict[Any, Callable[..., int]] = {
    aten._cdist_backward: _cdist_backward,
    aten.linalg_inv_ex: _cubic(2.0),
    aten.linalg_cholesky_ex: _cubic(1.0 / 3.0),
    aten.linalg_lu_factor_ex: _cubic(2.0 / 3.0),
}
"""Operations of penalties that front-ends do not have."""

_LIGHT = frozenset(
    {
        *("mse_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy"),
        *("nll_loss_forward", "nll_loss2d_forward", "eye", "scalar_tensor", "_linalg_check_errors"),
    }
)


@dataclass(frozen=True)
class Work(NetworkCosts[int]):
    """Work in the units of the latency form; it reads no parameters of its own."""

    def __add__(self, other: "Work") -> "Work":
        """Return the work of both."""
        return Work(
            self.macs + other.macs,
            self.macs_conv3x3s1 + other.macs_conv3x3s1,
            self.params + other.params,
            self.activation_elements + other.activation_elements,
        )


NO_WORK = Work(0, 0, 0, 0)


def element_work(elements: int) -> Work:
    """Return the work of reading or writing ``elements`` numbers."""
    return Work(0, 0, 0, elements)


def count_work(what: str, run: Callable[[], object]) -> Work:
    """Run a computation once and count its operations, those of its gradients included.

    Parameters
    ----------
    what : its name, for the message.

    Raises
    ------
    UserError : an operation has no formula, or real numbers leave torch; it is named.
    """
    counter, escapes = _Counter(what), Escapes(lambda: what, Tensor.is_floating_point)
    with torch.random.fork_rng(devices=[]), unfused(), torch.enable_grad(), escapes, counter:
        run()
    return Work(counter.flops // 2, counter.macs_conv3x3s1, 0, counter.elements)


class _Counter(Counting):  # type: ignore[no-untyped-call]
    """Adds up multiply-accumulates, and the numbers that operations read and write.

    As in ``layer_stats``, views are free, and ReLU-like activations move nothing.
    """

    def __init__(self, what: str) -> None:
        super().__init__(lambda: what)
        self.flops = 0
        self.macs_conv3x3s1 = 0
        self.elements = 0

    def is_countable(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Return whether an operation has a formula or needs none; new constants need none."""
        name = func.overloadpacket.__name__
        if func.overloadpacket in _FORMULAS or formula(func) is not None:
            return True
        makes = not any(isinstance(leaf, Tensor) for leaf in tree_flatten((args, kwargs))[0])
        return makes or is_light(func) or name in _LIGHT or "_backward" in name

    def record(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Add an operation's work."""
        name, counted = func.overloadpacket.__name__, formula(func)
        own = _FORMULAS.get(func.overloadpacket)
        if own is not None:
            self.flops += own(*args, **kwargs)
        elif counted is not None:
            flops = counted(*args, **kwargs, out_val=result) * complex_factor(func, args)
            self.flops += flops
            if name in ("convolution", "convolution_backward") and _is_3x3s1(name, args):
                self.macs_conv3x3s1 += flops // 2
        if not func.is_view and name not in FOLDED_OPS:
            self.elements += _numbers((args, kwargs)) + _numbers(result)


def _numbers(tree: Any) -> int:
    leaves, _ = tree_flatten(tree)
    return sum(
        leaf.numel() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()
    )


def _is_3x3s1(name: str, args: tuple[Any, ...]) -> bool:
    """Return whether a convolution, or its gradient, is dense, 3x3 and of stride 1."""
    if name == "convolution":
        _, weight, _, stride, _, dilation, transposed, _, groups = args
    else:
        _, _, weight, _, stride, _, dilation, transposed, _, groups, _ = args
    kernel = tuple(weight.shape[2:])
    plain = groups == 1 and not transposed
    return plain and kernel == (3, 3) and set(stride) == {1} and set(dilation) == {1}
