"""The network of the residual decoder: one body for every defence, an adapter per feature shape.

The body works on a fixed grid of a quarter of the image's height and width. Body and adapter have
no biases: zero features give a zero residual exactly, so constant features are reconstructed as the
mean image exactly.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from testbed.core.compute import compute_device
from testbed.core.plain_torch import without_weights

UPSCALE = 4
CELL = 2
"""Side of the squares of pixels that the body's last layer computes, a channel for each pixel."""


@dataclass(frozen=True)
class BodySize:
    """Channels on the quarter and half grids, and residual blocks on the quarter grid."""

    width: int
    half_width: int
    blocks: int


Capacity = Literal["small", "medium", "large"]
CAPACITIES: dict[Capacity, BodySize] = {
    "small": BodySize(32, 16, 2),
    "medium": BodySize(64, 32, 3),
    "large": BodySize(96, 48, 4),
}


def convolution(
    inputs: int, outputs: int, kernel: int, rng: torch.Generator, gain: float
) -> nn.Conv2d:
    """Return a bias-free, padded convolution; its weights have variance gain^2 / fan-in.

    It is on the device that this process computes on, and so is a network that is made of it.
    """
    # The default initialisation would draw from the global generator.
    layer = without_weights(nn.Conv2d, inputs, outputs, kernel, padding=kernel // 2, bias=False)
    deviation = gain / math.sqrt(inputs * kernel * kernel)
    with torch.no_grad():
        layer.weight.normal_(0.0, deviation, generator=rng)
    return layer.to(compute_device())


def update(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step of the optimiser on the gradient of the loss."""
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def rows(images: Tensor, chosen: Tensor) -> Tensor:
    """Return some rows of a channels-last tensor (N, C, H, W), each copied as one block."""
    return images.permute(0, 2, 3, 1).index_select(0, chosen).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), the identity at first (the second convolution starts at zero).

    References
    ----------
    Zhang, Dauphin, Ma, Fixup initialization, ICLR 2019, rule 2: no normalisation layer is needed.
    """

    def __init__(self, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.first = convolution(width, width, 3, rng, gain=math.sqrt(2.0))
        self.second = convolution(width, width, 3, rng, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, width, H, W) to the same shape."""
        change: Tensor = self.second(functional.relu(self.first(x)))
        return x + change


class InputAdapter(nn.Module):
    """Brings features (N, C, h, w) to the body's (N, width, H, W).

    A finer grid than the body's is folded into channels (space to depth), a coarser one unfolded by
    learned sub-positions (1x1 convolution, depth to space), separately per axis. If the sizes do
    not divide, features are first resized bilinearly to the nearest multiple or divisor.
    """

    def __init__(
        self,
        feature_shape: tuple[int, int, int],
        grid: tuple[int, int],
        width: int,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        channels, *size = feature_shape
        factors = [_axis_factors(side, body) for side, body in zip(size, grid, strict=True)]
        self.resized = (factors[0][0], factors[1][0])
        self.fold = (factors[0][1], factors[1][1])
        self.unfold = (factors[0][2], factors[1][2])
        folded = channels * math.prod(self.fold)
        self.mix = convolution(folded, width * math.prod(self.unfold), 1, rng, gain=1.0)

    def folded(self, z: Tensor) -> Tensor:
        """Resize and fold features; nothing here is learned, so a training does it once."""
        if tuple(z.shape[2:]) != self.resized:
            z = functional.interpolate(z, self.resized, mode="bilinear", align_corners=False)
        if self.fold != (1, 1):
            z = _space_to_depth(z, self.fold)
        return z.contiguous(memory_format=torch.channels_last)

    def forward(self, folded: Tensor) -> Tensor:
        """Map folded features to the body's input."""
        h: Tensor = self.mix(folded)
        return h if self.unfold == (1, 1) else _depth_to_space(h, self.unfold)


def _axis_factors(side: int, body: int) -> tuple[int, int, int]:
    """Return (size to resize to, folding factor, unfolding factor) of one axis."""
    if side >= body:
        fold = max(1, round(side / body))
        return fold * body, fold, 1
    divisors = [size for size in range(1, body + 1) if body % size == 0]
    nearest = min(divisors, key=lambda size: (abs(size - side), -size))
    return nearest, 1, body // nearest


def _space_to_depth(z: Tensor, factors: tuple[int, int]) -> Tensor:
    count, channels, height, width = z.shape
    rows, columns = factors
    cells = z.reshape(count, channels, height // rows, rows, width // columns, columns)
    folded = cells.permute(0, 1, 3, 5, 2, 4)
    return folded.reshape(count, channels * rows * columns, height // rows, width // columns)


def _depth_to_space(h: Tensor, factors: tuple[int, int]) -> Tensor:
    count, channels, height, width = h.shape
    rows, columns = factors
    cells = h.reshape(count, channels // (rows * columns), rows, columns, height, width)
    return cells.permute(0, 1, 4, 2, 5, 3).reshape(count, -1, height * rows, width * columns)


class DecoderNetwork(nn.Module):
    """Adapter and body; returns the residual to add to the mean auxiliary image.

    Parameters
    ----------
    feature_shape : (C, h, w) of the features.
    image_shape : (C, H, W) of the images; H and W are multiples of 4.
    size : widths and depth of the body.
    rng : source of the initial weights.

    Raises
    ------
    ValueError : an image size that is not a multiple of 4.
    """

    def __init__(
        self,
        feature_shape: tuple[int, int, int],
        image_shape: tuple[int, int, int],
        size: BodySize,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        if height % UPSCALE or width % UPSCALE:
            raise ValueError(f"the decoder needs image sides divisible by 4, not {height}x{width}")
        half = size.half_width
        # The body is drawn first: its initial weights are then the same for every feature shape.
        self.body = nn.Sequential(
            *[ResidualBlock(size.width, rng) for _ in range(size.blocks)],
            convolution(size.width, 4 * half, 3, rng, gain=1.0),
            nn.PixelShuffle(2),
            nn.ReLU(),
            ResidualBlock(half, rng),
            convolution(half, 4 * channels, 3, rng, gain=0.0),  # starts as the mean image
        )
        grid = (height // UPSCALE, width // UPSCALE)
        self.adapter = InputAdapter(feature_shape, grid, size.width, rng)

    def forward(self, z: Tensor) -> Tensor:
        """Map normalised features (N, C, h, w) to residuals (N, *image_shape)."""
        return self.decoded(self.adapter.folded(z))

    def decoded(self, folded: Tensor) -> Tensor:
        """Map features that the adapter has folded to residuals."""
        return functional.pixel_shuffle(self.cells(folded), CELL)

    def cells(self, folded: Tensor) -> Tensor:
        """Map folded features to residuals in cells of 2x2 pixels, (N, 4 C, H / 2, W / 2)."""
        residual: Tensor = self.body(self.adapter(folded))
        return residual

    def body_parameters(self) -> int:
        """Count the learned parameters of the body; they depend on the image's channels only."""
        return sum(parameter.numel() for parameter in self.body.parameters())

    def adapter_parameters(self) -> int:
        """Count the learned parameters of the input adapter."""
        return sum(parameter.numel() for parameter in self.adapter.parameters())


class AveragedNetworks(nn.Module):
    """Networks in training, and the moving averages of their weights, which decode.

    Parameters
    ----------
    members : networks of one shape.
    decay : of the averages, for each step; the first steps weigh more.
    """

    def __init__(self, members: Sequence[DecoderNetwork], decay: float) -> None:
        super().__init__()
        self.members = list(members)
        self.averages = [copy.deepcopy(member).requires_grad_(False) for member in members]
        self.registered = nn.ModuleList([*self.members, *self.averages])
        self._decay = decay
        self._steps = 0

    @property
    def adapter(self) -> InputAdapter:
        """An adapter that folds features for every member."""
        return self.members[0].adapter

    def follow(self) -> None:
        """Move the averages towards the members."""
        self._steps += 1
        share = 1.0 - min(self._decay, (1.0 + self._steps) / (10.0 + self._steps))
        with torch.no_grad():
            for average, member in zip(self.averages, self.members, strict=True):
                torch._foreach_lerp_(list(average.parameters()), list(member.parameters()), share)

    def cells(self, folded: Tensor) -> Tensor:
        """Map folded features to the residuals of every member, (members, N, 4 C, H / 2, W / 2)."""
        return torch.stack([member.cells(folded) for member in self.members])

    def decoded(self, folded: Tensor) -> Tensor:
        """Map folded features to the mean residual of the averages, (N, C, H, W)."""
        cells = [average.cells(folded) for average in self.averages]
        return functional.pixel_shuffle(torch.stack(cells).mean(dim=0), CELL)

    def body_parameters(self) -> int:
        """Count the learned parameters of all bodies."""
        return sum(member.body_parameters() for member in self.members)

    def adapter_parameters(self) -> int:
        """Count the learned parameters of all adapters."""
        return sum(member.adapter_parameters() for member in self.members)


Networks = DecoderNetwork | AveragedNetworks
"""What a training of decoders trains."""
