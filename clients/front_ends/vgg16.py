"""VGG16-BN front-ends (configuration D, arXiv 1409.1556): undefended cuts, and SiftFunnel's."""

from typing import Annotated

from pydantic import Field
from torch import nn

from clients.front_ends.base import FrontEnd
from testbed.core.layers import (
    Cbam,
    SqueezeExcitation,
    TripletAttention,
    conv_norm_relu,
    funnel_tail,
    vgg_stage,
)
from testbed.core.registries import FRONT_ENDS
from testbed.core.registry import Options

FUNNEL_CHANNELS = 4
SMALLEST_SIDE = 32  # five halvings must leave one pixel
STAGES = ((2, 1), (2, 2), (3, 4), (3, 8))  # convolutions, multiple of the width


class Vgg16Options(Options):
    """The cut of VGG16, and its width."""

    stages: Annotated[int, Field(ge=1, le=4)] = Field(
        default=2, description="stages on the device, each ending in its max-pool"
    )
    width: Annotated[int, Field(ge=8, le=256, multiple_of=8)] = 64


class SiftFunnelVgg16Options(Options):
    """Width of the first stage; 64 in the paper."""

    width: Annotated[int, Field(ge=16, le=256, multiple_of=16)] = 64


def _check_size(image_shape: tuple[int, int, int]) -> None:
    if min(image_shape[1:]) < SMALLEST_SIDE:
        raise ValueError(f"VGG16 needs images of at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels")


@FRONT_ENDS.register("vgg16", "undefended VGG16-BN, cut after stage 1 to 4", Vgg16Options)
class Vgg16FrontEnd(FrontEnd):
    """``stages`` stages of biased [conv 3x3, BN, ReLU] and max-pool 2."""

    def __init__(self, options: Vgg16Options, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        _check_size(image_shape)
        channels, height, width = image_shape
        layers = []
        for convs, multiple in STAGES[: options.stages]:
            layers.append(vgg_stage(channels, options.width * multiple, convs))
            channels = options.width * multiple
        self.layers = nn.Sequential(*layers)
        shrink = 2**options.stages
        self.feature_shape = (channels, height // shrink, width // shrink)
        self.cloud_model = ("vgg16", {"stages": options.stages, "width": options.width})


@FRONT_ENDS.register(
    "siftfunnel_vgg16", "SiftFunnel VGG16-BN front-end, 4 channels", SiftFunnelVgg16Options
)
class SiftFunnelVgg16(FrontEnd):
    """Stages 1 and 2 without conv biases, each with attention, then the funnel to 4 channels."""

    def __init__(self, options: SiftFunnelVgg16Options, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        _check_size(image_shape)
        image_channels, height, width = image_shape
        narrow, wide = options.width, 2 * options.width
        self.first = vgg_stage(image_channels, narrow, 2, bias=False)
        self.attention = nn.Sequential(SqueezeExcitation(narrow, 16), TripletAttention())
        self.second = nn.Sequential(
            vgg_stage(narrow, wide, 2, bias=False), SqueezeExcitation(wide, 32), TripletAttention()
        )
        self.funnel = nn.Sequential(
            conv_norm_relu(wide, 32),
            nn.Conv2d(32, FUNNEL_CHANNELS, 1),
            funnel_tail(FUNNEL_CHANNELS),
            SqueezeExcitation(FUNNEL_CHANNELS, 4),
            Cbam(FUNNEL_CHANNELS, 4),
        )
        self.feature_shape = (FUNNEL_CHANNELS, height // 4, width // 4)
        self.cloud_model = ("siftfunnel_vgg16", {"width": options.width})

    def pre_funnel(self) -> nn.Module:
        """Return stage 1's attention, whose output the released code regularises."""
        return self.attention
