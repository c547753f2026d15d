"""int8 front-ends, emulated in float32: the arithmetic of a microcontroller's integer kernels.

Weights are quantised symmetrically per output channel, activations affinely per tensor. Activation
ranges are moving averages over training batches, and gradients pass straight through: quantisation-
aware training as in Jacob et al. 2018 (arXiv 1712.05877, sections 2 and 3). As in deployed kernels,
batch norm is folded into the convolution before it: activations are quantised after the batch norm.
The scale of an output channel does not change its symmetric quantisation.
"""

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from testbed.core.layers import BatchAverage
from testbed.wire.quantisation import straight_through

WEIGHT_LEVELS = 127  # -127 to 127, without -128, so that negation is exact
ACTIVATION_LEVELS = 255
_FUSED_INTO_NEXT = (nn.BatchNorm2d, nn.MaxPool2d, nn.ReLU, nn.SiLU)
_HAS_WEIGHT = (nn.Conv2d, nn.Linear)


def quantise_weight(weight: Tensor) -> Tensor:
    """Round a weight (C_out, ...) to 8 bits per output channel; the gradient is straight-through.

    value = step * code with codes from -127 to 127 (arXiv 1712.05877, section 3.1).
    """
    step = weight.detach().flatten(1).abs().amax(dim=1) / WEIGHT_LEVELS
    step = torch.where(step == 0.0, 1.0, step).reshape(-1, *[1] * (weight.dim() - 1))
    return straight_through(torch.round(weight.detach() / step) * step, weight)


class ActivationQuantiser(BatchAverage):
    """Rounds activations to 256 values in a range that is learned in training.

    Attributes
    ----------
    low, high : moving averages of a batch's least and largest activation; 0 before the first batch.
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(1))
        self.register_buffer("high", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Round activations of any shape; the gradient is zero outside the range."""
        if self.training:
            with torch.no_grad():
                self.low.lerp_(x.min().clamp_max(0.0).reshape(1), self.momentum)
                self.high.lerp_(x.max().clamp_min(0.0).reshape(1), self.momentum)
        step = (self.high - self.low) / ACTIVATION_LEVELS
        usable = torch.where(step == 0.0, 1.0, step)
        zero_point = torch.round(-self.low / usable)
        lowest, highest = -zero_point * usable, (ACTIVATION_LEVELS - zero_point) * usable
        inside = torch.minimum(torch.maximum(x, lowest), highest)
        rounded = torch.round(inside.detach() / usable) * usable
        # There is no range before the first training batch.
        return torch.where(step == 0.0, x, straight_through(rounded, inside))


class Int8Emulation:
    """Makes a front-end compute like its int8 deployment.

    The quantisers become a part of the front-end, ``quantisers``. Their ranges are statistics,
    which travel, are averaged and are deployed like those of batch norm.
    """

    def __init__(self, front_end: nn.Module) -> None:
        names = dict(front_end.named_modules())
        self._weights = {
            f"{name}.weight" for name, layer in names.items() if isinstance(layer, _HAS_WEIGHT)
        }
        quantisers = nn.ModuleList()
        for module in _quantised(front_end):
            quantiser = ActivationQuantiser()
            quantisers.append(quantiser)
            module.register_forward_hook(_rounding(quantiser))
        front_end.add_module("quantisers", quantisers)

    def weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights by name, with those of convolutions and linear layers quantised."""
        return {
            name: quantise_weight(value) if name in self._weights else value
            for name, value in weights.items()
        }


def _rounding(quantiser: ActivationQuantiser) -> Callable[[nn.Module, object, Tensor], Tensor]:
    def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        rounded: Tensor = quantiser(output)
        return rounded

    return hook


def _quantised(front_end: nn.Module) -> list[nn.Module]:
    """Return the modules whose output an integer deployment writes to memory, in a fixed order.

    These are all modules except chains (``nn.Sequential``) and layers that kernels fuse with the
    next one: a convolution or batch norm before a batch norm, pooling or activation.
    """
    leaves = [layer for layer in front_end.modules() if not list(layer.children())]
    fused = {
        id(layer)
        for layer, following in itertools.pairwise(leaves)
        if isinstance(following, _FUSED_INTO_NEXT)
        and isinstance(layer, (*_HAS_WEIGHT, nn.BatchNorm2d, nn.MaxPool2d))
    }
    return [
        layer
        for layer in front_end.modules()
        if not isinstance(layer, nn.Sequential) and id(layer) not in fused
    ]
