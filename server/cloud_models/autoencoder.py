"""Cloud half of the autoencoder baseline: the mirrored decoder, then the CNN's last blocks."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from server.cloud_models.base import CloudModel
from server.cloud_models.cnn import CnnCloudOptions, cnn_cloud
from testbed.core.layers import SummedConvs, conv_norm_relu
from testbed.core.registries import CLOUD_MODELS
from testbed.core.registry import Options

Shape = tuple[int, int, int]


class AutoencoderCnnCloudOptions(Options):
    """The width of the CNN's first block."""

    width: Annotated[int, Field(ge=8, le=256)] = 64


class AutoencoderCnnCloud(CloudModel):
    """Decoder from ``code_channels`` to twice as many, then ``rest``, the CNN after block 2."""

    def __init__(self, code_channels: int, rest: CloudModel) -> None:
        super().__init__()
        wide = 2 * code_channels
        self.decoder = nn.Sequential(
            conv_norm_relu(code_channels, wide, bias=True), SummedConvs(wide)
        )
        self.rest = rest

    def forward(self, z: Tensor) -> Tensor:
        """Map features to logits (N, K)."""
        logits: Tensor = self.rest(self.decoder(z))
        return logits


@CLOUD_MODELS.register(
    "autoencoder_cnn", "decodes the code, then CNN blocks 3, 4 and head", AutoencoderCnnCloudOptions
)
def autoencoder_cnn_cloud(
    options: AutoencoderCnnCloudOptions, feature_shape: Shape, num_classes: int
) -> CloudModel:
    """Build the decoder to 2w channels and the undefended CNN's half after block 2."""
    _, height, width = feature_shape
    rest = cnn_cloud(
        CnnCloudOptions(cut=2, width=options.width), (2 * options.width, height, width), num_classes
    )
    return AutoencoderCnnCloud(options.width, rest)
