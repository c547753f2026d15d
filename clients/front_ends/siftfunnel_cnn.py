"""SiftFunnel's CNN front-end (arXiv 2501.00824): one block, attention, and a narrow funnel."""

from typing import Annotated

from pydantic import Field
from torch import nn

from clients.front_ends.base import FrontEnd
from testbed.core.layers import (
    Cbam,
    SqueezeExcitation,
    TripletAttention,
    conv_block,
    funnel_tail,
)
from testbed.core.registries import FRONT_ENDS
from testbed.core.registry import Options

FUNNEL_CHANNELS = 12


class SiftFunnelCnnOptions(Options):
    """Width of the first block (64 in the paper) and of the funnel."""

    width: Annotated[int, Field(ge=32, le=256, multiple_of=32)] = 64
    channels: Annotated[int, Field(ge=1, le=64)] = Field(
        default=FUNNEL_CHANNELS, description="of the features; 12 in the paper"
    )


@FRONT_ENDS.register(
    "siftfunnel_cnn", "SiftFunnel CNN front-end, 12 channels", SiftFunnelCnnOptions
)
class SiftFunnelCnn(FrontEnd):
    """Block 1, SE, triplet attention, then the funnel to 12 channels at a quarter of H and W."""

    def __init__(self, options: SiftFunnelCnnOptions, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        funnel = options.channels
        self.block = conv_block(channels, options.width)
        self.attention = nn.Sequential(SqueezeExcitation(options.width, 32), TripletAttention())
        self.funnel = nn.Sequential(
            nn.Conv2d(options.width, 16, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(16, funnel, 1),
            funnel_tail(funnel),
            SqueezeExcitation(funnel, min(4, funnel)),
            Cbam(funnel, min(6, funnel)),
        )
        self.feature_shape = (funnel, height // 4, width // 4)
        self.cloud_model = ("siftfunnel_cnn", {"width": options.width})

    def pre_funnel(self) -> nn.Module:
        """Return block 1's attention, whose output the released code regularises."""
        return self.attention
