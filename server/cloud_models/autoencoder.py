"""Cloud half of the autoencoder baseline: the mirrored decoder, then the CNN's last blocks."""

from server.cloud_models.base import CloudModel, Shape, WidthOptions
from server.cloud_models.cnn import CnnCloudOptions, cnn_cloud
from testbed.core.layers import SummedConvs, conv_norm_relu
from testbed.core.registries import CLOUD_MODELS


@CLOUD_MODELS.register(
    "autoencoder_cnn", "decodes the code, then CNN blocks 3, 4 and head", WidthOptions
)
def autoencoder_cnn_cloud(
    options: WidthOptions, feature_shape: Shape, num_classes: int
) -> CloudModel:
    """Build the decoder from w to 2w channels and the undefended CNN's half after block 2."""
    _, height, width = feature_shape
    narrow, wide = options.width, 2 * options.width
    rest = cnn_cloud(CnnCloudOptions(cut=2, width=narrow), (wide, height, width), num_classes)
    return CloudModel(conv_norm_relu(narrow, wide, bias=True), SummedConvs(wide), rest)
