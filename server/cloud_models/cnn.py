"""Cloud halves of the CNN: of the undefended cuts and of the SiftFunnel front-end."""

from typing import Annotated

from pydantic import Field
from torch import nn

from server.cloud_models.base import CloudModel, Shape, Width, WidthOptions
from testbed.core.layers import Dropout, TripletAttention, conv_block, widen
from testbed.core.registries import CLOUD_MODELS
from testbed.core.registry import Options


class CnnCloudOptions(Options):
    """The cut after which this half starts, and the width of the first block."""

    cut: Annotated[int, Field(ge=1, le=4)] = 2
    width: Width = 64


def _head(features: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(features, 5 * num_classes),
        Dropout(0.5),
        nn.Linear(5 * num_classes, num_classes),
    )


@CLOUD_MODELS.register("cnn", "the CNN's blocks after the cut, and its head", CnnCloudOptions)
def cnn_cloud(options: CnnCloudOptions, feature_shape: Shape, num_classes: int) -> CloudModel:
    """Build blocks ``cut + 1`` to 4, flatten, linear to 5K, dropout 0.5, linear to K."""
    widths = [options.width * multiple for multiple in (1, 2, 4, 8)]
    _, height, width = feature_shape
    blocks = [
        conv_block(widths[index - 1], widths[index]) for index in range(options.cut, len(widths))
    ]
    shrink = 2 ** len(blocks)
    features = widths[-1] * (height // shrink) * (width // shrink)
    return CloudModel(*blocks, _head(features, num_classes))


@CLOUD_MODELS.register(
    "siftfunnel_cnn", "widens the funnel again, then blocks 3, 4 and head", WidthOptions
)
def siftfunnel_cloud(options: WidthOptions, feature_shape: Shape, num_classes: int) -> CloudModel:
    """Build Up(12, 2w), triplet attention, blocks 4w and 8w, and the same head."""
    channels, height, width = feature_shape
    wide = 2 * options.width
    features = 4 * wide * (height // 4) * (width // 4)
    return CloudModel(
        widen(channels, wide),
        TripletAttention(),
        conv_block(wide, 2 * wide),
        conv_block(2 * wide, 4 * wide),
        _head(features, num_classes),
    )
