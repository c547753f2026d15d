"""Cloud halves of ResNet-18: of the undefended cuts and of the SiftFunnel front-end.

Two heads: the global mean of arXiv 1512.03385 (the default; works at every size), or that of
SiftFunnel's released code, which averages cells of 4 x 4 and flattens them. Both are the same up to
32 x 32 pixels; at 64 x 64 the released one has 2,048 inputs instead of 512.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from server.cloud_models.base import CloudModel, Shape, Width
from testbed.core.layers import TripletAttention, residual_stage, widen
from testbed.core.registries import CLOUD_MODELS
from testbed.core.registry import Options

STAGES = 4
CELL = 4
"""Side of the cells that the released head averages, in pixels of the last stage."""


class HeadOptions(Options):
    """The width of the stem, and the head."""

    width: Width = 64
    head: Literal["global_mean", "released"] = "global_mean"


class ResNet18CloudOptions(HeadOptions):
    """The cut after which this half starts."""

    stages: Annotated[int, Field(ge=1, le=3)] = Field(
        default=2, description="stages before the cut"
    )


class _GlobalAverage(nn.Module):
    """Averages features (N, C, H, W) over any H and W."""

    def forward(self, z: Tensor) -> Tensor:
        return z.mean(dim=(2, 3))


def _rest(
    first: int, options: HeadOptions, feature_shape: Shape, num_classes: int
) -> list[nn.Module]:
    """Return stages ``first`` (0-based) to the last, and the head.

    Raises
    ------
    ValueError : features too small for a cell of the released head.
    """
    width = options.width
    stages: list[nn.Module] = [
        residual_stage(width * 2 ** (index - 1), width * 2**index, stride=2)
        for index in range(first, STAGES)
    ]
    channels = width * 2 ** (STAGES - 1)
    if options.head == "global_mean":
        return [*stages, _GlobalAverage(), nn.Linear(channels, num_classes)]
    sides = list(feature_shape[1:])
    for _ in stages:
        sides = [-(-side // 2) for side in sides]
    cells = (sides[0] // CELL) * (sides[1] // CELL)
    if cells == 0:
        raise ValueError(
            f"head: released averages cells of {CELL} x {CELL}, but the last stage has "
            f"{sides[0]} x {sides[1]}; use larger images or head: global_mean"
        )
    return [*stages, nn.AvgPool2d(CELL), nn.Flatten(), nn.Linear(channels * cells, num_classes)]


@CLOUD_MODELS.register(
    "resnet18", "ResNet-18's stages after the cut, and its head", ResNet18CloudOptions
)
def resnet18_cloud(
    options: ResNet18CloudOptions, feature_shape: Shape, num_classes: int
) -> CloudModel:
    """Build stages ``stages + 1`` to 4 and the head."""
    return CloudModel(*_rest(options.stages, options, feature_shape, num_classes))


@CLOUD_MODELS.register(
    "siftfunnel_resnet18", "widens the funnel again, then stages 3, 4 and head", HeadOptions
)
def siftfunnel_resnet18_cloud(
    options: HeadOptions, feature_shape: Shape, num_classes: int
) -> CloudModel:
    """Build Up(6, 2w), triplet attention, stages 4w and 8w, and the head."""
    widened = widen(feature_shape[0], 2 * options.width)
    rest = _rest(2, options, feature_shape, num_classes)
    return CloudModel(widened, TripletAttention(), *rest)
