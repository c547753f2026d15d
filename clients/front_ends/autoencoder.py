"""The autoencoder baseline, whose cost on the device SiftFunnel (arXiv 2501.00824) reduces."""

from typing import Annotated

from pydantic import Field
from torch import nn

from clients.front_ends.base import FrontEnd
from testbed.core.layers import SummedConvs, conv_block, conv_norm_relu
from testbed.core.registries import FRONT_ENDS
from testbed.core.registry import Options


class AutoencoderCnnOptions(Options):
    """Width of the CNN's first block."""

    width: Annotated[int, Field(ge=8, le=256, multiple_of=8)] = 64


@FRONT_ENDS.register(
    "autoencoder_cnn",
    "CNN blocks 1 and 2, then an edge encoder to 64 channels",
    AutoencoderCnnOptions,
)
class AutoencoderCnn(FrontEnd):
    """Blocks 1 and 2 of the CNN, summed convolutions, then conv 3x3 to half the channels."""

    def __init__(self, options: AutoencoderCnnOptions, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.blocks = nn.Sequential(
            conv_block(channels, options.width), conv_block(options.width, 2 * options.width)
        )
        self.encoder = nn.Sequential(
            SummedConvs(2 * options.width),
            conv_norm_relu(2 * options.width, options.width, bias=True),
        )
        self.feature_shape = (options.width, height // 4, width // 4)
        self.cloud_model = ("autoencoder_cnn", {"width": options.width})

    def pre_funnel(self) -> nn.Module:
        """Return the CNN's blocks, before the encoder."""
        return self.blocks
