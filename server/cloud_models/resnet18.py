"""Cloud halves of ResNet-18: of the undefended cuts and of the SiftFunnel front-end."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from server.cloud_models.base import CloudModel, Shape, Width, WidthOptions
from testbed.core.layers import TripletAttention, residual_stage, widen
from testbed.core.registries import CLOUD_MODELS
from testbed.core.registry import Options

STAGES = 4


class ResNet18CloudOptions(Options):
    """The cut after which this half starts, and the width of the stem."""

    stages: Annotated[int, Field(ge=1, le=3)] = Field(
        default=2, description="stages before the cut"
    )
    width: Width = 64


class _GlobalAverage(nn.Module):
    """Averages features (N, C, H, W) over any H and W."""

    def forward(self, z: Tensor) -> Tensor:
        return z.mean(dim=(2, 3))


def _rest(first: int, width: int, num_classes: int) -> list[nn.Module]:
    """Return stages ``first`` (0-based) to the last, global average pool and linear layer."""
    stages = [
        residual_stage(width * 2 ** (index - 1), width * 2**index, stride=2)
        for index in range(first, STAGES)
    ]
    return [*stages, _GlobalAverage(), nn.Linear(width * 2 ** (STAGES - 1), num_classes)]


@CLOUD_MODELS.register(
    "resnet18", "ResNet-18's stages after the cut, and its head", ResNet18CloudOptions
)
def resnet18_cloud(
    options: ResNet18CloudOptions, feature_shape: Shape, num_classes: int
) -> CloudModel:
    """Build stages ``stages + 1`` to 4 and the head."""
    return CloudModel(*_rest(options.stages, options.width, num_classes))


@CLOUD_MODELS.register(
    "siftfunnel_resnet18", "widens the funnel again, then stages 3, 4 and head", WidthOptions
)
def siftfunnel_resnet18_cloud(
    options: WidthOptions, feature_shape: Shape, num_classes: int
) -> CloudModel:
    """Build Up(6, 2w), triplet attention, stages 4w and 8w, and the head."""
    widened = widen(feature_shape[0], 2 * options.width)
    return CloudModel(widened, TripletAttention(), *_rest(2, options.width, num_classes))
