"""The undefended CNN, cut after one of its four blocks (SiftFunnel's victim model)."""

from typing import Annotated

from pydantic import Field
from torch import nn

from clients.front_ends.base import FrontEnd
from testbed.core.layers import conv_block
from testbed.core.registries import FRONT_ENDS
from testbed.core.registry import Options

WIDTH_MULTIPLES = (1, 2, 4, 8)


class CnnOptions(Options):
    """The cut of the CNN, and its width."""

    cut: Annotated[int, Field(ge=1, le=4)] = Field(default=2, description="blocks on the device")
    width: Annotated[int, Field(ge=8, le=256, multiple_of=8)] = 64


@FRONT_ENDS.register("cnn", "undefended CNN, cut after block 1 to 4", CnnOptions)
class CnnFrontEnd(FrontEnd):
    """``cut`` blocks of [conv 3x3, BN, max-pool 2, ReLU] with width x (1, 2, 4, 8) channels."""

    def __init__(self, options: CnnOptions, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        blocks = []
        for multiple in WIDTH_MULTIPLES[: options.cut]:
            blocks.append(conv_block(channels, options.width * multiple))
            channels = options.width * multiple
        self.blocks = nn.Sequential(*blocks)
        shrink = 2**options.cut
        self.feature_shape = (channels, height // shrink, width // shrink)
        self.cloud_model = ("cnn", {"cut": options.cut, "width": options.width})
