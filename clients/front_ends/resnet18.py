"""ResNet-18 front-ends: the undefended network, cut after a stage, and SiftFunnel's.

The stem is that of small images (arXiv 1512.03385, sec. 4.2): conv 3x3 of stride 1, no pooling.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from clients.front_ends.base import FrontEnd
from testbed.core.layers import (
    Cbam,
    SqueezeExcitation,
    TripletAttention,
    conv_norm_relu,
    funnel_tail,
    residual_stage,
)
from testbed.core.registries import FRONT_ENDS
from testbed.core.registry import Options

FUNNEL_CHANNELS = 6


Head = Annotated[
    Literal["global_mean", "released"],
    Field(description="of the cloud half: global mean, or SiftFunnel's released 4 x 4 cells"),
]


class ResNet18Options(Options):
    """The cut of ResNet-18, its width, and the head of its cloud half."""

    stages: Annotated[int, Field(ge=1, le=3)] = Field(
        default=2, description="residual stages on the device, after the stem"
    )
    width: Annotated[int, Field(ge=8, le=256, multiple_of=8)] = 64
    head: Head = "global_mean"


class SiftFunnelResNet18Options(Options):
    """Width of the stem (64 in the paper), and the head of the cloud half."""

    width: Annotated[int, Field(ge=16, le=256, multiple_of=16)] = 64
    head: Head = "global_mean"


@FRONT_ENDS.register("resnet18", "undefended ResNet-18, cut after stage 1 to 3", ResNet18Options)
class ResNet18FrontEnd(FrontEnd):
    """The stem and ``stages`` stages of two basic blocks, width x (1, 2, 4) channels."""

    def __init__(self, options: ResNet18Options, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        image_channels, height, width = image_shape
        channels = options.width
        layers: list[nn.Module] = [conv_norm_relu(image_channels, channels)]
        for index in range(options.stages):
            stride = 1 if index == 0 else 2
            layers.append(residual_stage(channels, options.width * 2**index, stride))
            channels = options.width * 2**index
            height, width = -(-height // stride), -(-width // stride)
        self.layers = nn.Sequential(*layers)
        self.feature_shape = (channels, height, width)
        self.cloud_model = ("resnet18", options.model_dump())


@FRONT_ENDS.register(
    "siftfunnel_resnet18", "SiftFunnel ResNet-18 front-end, 6 channels", SiftFunnelResNet18Options
)
class SiftFunnelResNet18(FrontEnd):
    """Stem and two plain convolutions, each with attention, then the funnel to 6 channels.

    It has no first residual stage: the published code computes one and discards its output.
    """

    def __init__(
        self, options: SiftFunnelResNet18Options, image_shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        image_channels, height, width = image_shape
        narrow, wide = options.width, 2 * options.width
        self.stem = conv_norm_relu(image_channels, narrow)
        self.attention = nn.Sequential(SqueezeExcitation(narrow, 16), TripletAttention())
        self.halve = nn.Sequential(
            conv_norm_relu(narrow, wide, stride=2),
            conv_norm_relu(wide, wide),
            SqueezeExcitation(wide, 32),
            TripletAttention(),
        )
        self.funnel = nn.Sequential(
            conv_norm_relu(wide, 32, kernel=1, bias=True),
            nn.Conv2d(32, FUNNEL_CHANNELS, 1),
            funnel_tail(FUNNEL_CHANNELS),
            SqueezeExcitation(FUNNEL_CHANNELS, 3),
            Cbam(FUNNEL_CHANNELS, 3),
        )
        self.feature_shape = (FUNNEL_CHANNELS, -(-height // 2), -(-width // 2))
        self.cloud_model = ("siftfunnel_resnet18", options.model_dump())

    def pre_funnel(self) -> nn.Module:
        """Return the stem's attention, whose output the released code regularises."""
        return self.attention
