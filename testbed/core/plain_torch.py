"""Optimisers, gradients and layers of torch without its compiler, which nothing here uses.

The compiler (``torch._dynamo`` and sympy: 2,000 modules) takes longer to import than torch itself,
and 100 MB in every process. An optimiser imports it to exclude its own methods from compilation,
``torch.autograd.grad`` to compare shapes, ``nn.utils.skip_init`` to find out a memory layout. The
numbers are the same either way.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

Layer = TypeVar("Layer", bound=nn.Module)


def plain_optimisers() -> None:
    """Let Adam, AdamW and SGD work in this process as if there were no compiler.

    Where torch changes how its optimisers exclude themselves, they load the compiler again.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        method: Any = inspect.unwrap(getattr(Optimizer, name))
        setattr(method, "__dynamo_disable", method)
    for kind in (Adam, SGD):
        kind.step = _plain_step(inspect.unwrap(kind.step))  # type: ignore[method-assign]


def _plain_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return an optimiser's step, with gradients enabled only for a differentiable optimiser."""

    @functools.wraps(step)
    def plain(self: Optimizer, *arguments: Any, **named: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *arguments, **named)

    return plain


class _Weighted(torch.autograd.Function):
    """A number whose gradient with respect to a tensor is ``weights``; its value is not used."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return output.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        return weights, None


def weighted_gradients(
    outputs: Sequence[Tensor],
    leaves: Sequence[Tensor],
    weights: Sequence[Tensor],
    retain_graph: bool = False,
) -> list[Tensor]:
    """Return d(outputs . weights) / d(leaves), zero for leaves that the outputs do not depend on.

    Raises
    ------
    ValueError : weights have another shape than their output.
    """
    for output, weight in zip(outputs, weights, strict=True):
        if output.shape != weight.shape:
            raise ValueError(
                f"a gradient of shape {tuple(weight.shape)} for an output of shape "
                f"{tuple(output.shape)}"
            )
    numbers = [
        _Weighted.apply(output, weight)  # type: ignore[no-untyped-call]
        for output, weight in zip(outputs, weights, strict=True)
    ]
    return list(
        torch.autograd.grad(numbers, leaves, retain_graph=retain_graph, materialize_grads=True)
    )


def without_weights(kind: Callable[..., Layer], *arguments: Any, **named: Any) -> Layer:
    """Return a layer with memory for its weights, and without drawing initial ones."""
    layer = kind(*arguments, **named, device="meta")
    for name, weights in list(layer.named_parameters(recurse=False)):
        memory = torch.empty(weights.shape, dtype=weights.dtype, device="cpu")
        setattr(layer, name, nn.Parameter(memory))
    return layer
