"""Cloud halves of ResNet-18: of the undefended cuts and of the SiftFunnel front-end."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from server.cloud_models.base import CloudModel
from testbed.core.layers import TripletAttention, residual_stage, widen
from testbed.core.registries import CLOUD_MODELS
from testbed.core.registry import Options

Shape = tuple[int, int, int]
STAGES = 4


class ResNet18CloudOptions(Options):
    """The cut this half continues from, and the width of the stem."""

    stages: Annotated[int, Field(ge=1, le=3)] = Field(default=2, description="stages before it")
    width: Annotated[int, Field(ge=8, le=256)] = 64


class SiftFunnelResNet18CloudOptions(Options):
    """The width of the stem."""

    width: Annotated[int, Field(ge=8, le=256)] = 64


class ResNet18Cloud(CloudModel):
    """Remaining stages, global average pool (any H and W) and a linear layer.

    Parameters
    ----------
    entry : what leads from the features to the output of stage ``stages``.
    stages : stages that are done, 1 to 3.
    width : channels of stage 1.
    """

    def __init__(self, entry: nn.Module, stages: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.entry = entry
        self.stages = nn.Sequential(
            *(
                residual_stage(width * 2 ** (index - 1), width * 2**index, stride=2)
                for index in range(stages, STAGES)
            )
        )
        self.head = nn.Linear(width * 2 ** (STAGES - 1), num_classes)

    def forward(self, z: Tensor) -> Tensor:
        """Map features to logits (N, K)."""
        logits: Tensor = self.head(self.stages(self.entry(z)).mean(dim=(2, 3)))
        return logits


@CLOUD_MODELS.register(
    "resnet18", "ResNet-18's stages after the cut, and its head", ResNet18CloudOptions
)
def resnet18_cloud(
    options: ResNet18CloudOptions, feature_shape: Shape, num_classes: int
) -> CloudModel:
    """Build stages ``stages + 1`` to 4 and the head."""
    return ResNet18Cloud(nn.Identity(), options.stages, options.width, num_classes)


@CLOUD_MODELS.register(
    "siftfunnel_resnet18",
    "widens the funnel again, then stages 3, 4 and head",
    SiftFunnelResNet18CloudOptions,
)
def siftfunnel_resnet18_cloud(
    options: SiftFunnelResNet18CloudOptions, feature_shape: Shape, num_classes: int
) -> CloudModel:
    """Build Up(6, 2w), triplet attention, stages 4w and 8w, and the head."""
    entry = nn.Sequential(widen(feature_shape[0], 2 * options.width), TripletAttention())
    return ResNet18Cloud(entry, 2, options.width, num_classes)
