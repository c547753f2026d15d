"""Cloud halves of VGG16-BN: of the undefended cuts and of the SiftFunnel front-end."""

from typing import Annotated

from pydantic import Field
from torch import nn

from server.cloud_models.base import CloudModel, Shape, Width, WidthOptions
from testbed.core.layers import Dropout, TripletAttention, conv_norm_relu, vgg_stage, widen
from testbed.core.registries import CLOUD_MODELS
from testbed.core.registry import Options

STAGE_CONVS = (2, 2, 3, 3, 3)
WIDTH_MULTIPLES = (1, 2, 4, 8, 8)
CLASSIFIER_MULTIPLE = 64  # 4096 units at the published width of 64


class Vgg16CloudOptions(Options):
    """The cut after which this half starts, and the width of the first stage."""

    stages: Annotated[int, Field(ge=1, le=4)] = Field(
        default=2, description="stages before the cut"
    )
    width: Width = 64


def _classifier(width: int, pixels: int, num_classes: int) -> nn.Sequential:
    """Return the classifier of 8 x ``width`` channels of ``pixels`` pixels."""
    hidden = CLASSIFIER_MULTIPLE * width
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(WIDTH_MULTIPLES[-1] * width * pixels, hidden),
        nn.ReLU(inplace=True),
        Dropout(0.3),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        Dropout(0.2),
        nn.Linear(hidden, num_classes),
    )


def _stages(first: int, width: int) -> list[nn.Module]:
    """Return stages ``first`` (0-based) to the last."""
    widths = [width * multiple for multiple in WIDTH_MULTIPLES]
    return [
        vgg_stage(widths[index - 1], widths[index], STAGE_CONVS[index])
        for index in range(first, len(widths))
    ]


def _pixels(feature_shape: Shape, halvings: int) -> int:
    _, height, width = feature_shape
    return (height >> halvings) * (width >> halvings)


@CLOUD_MODELS.register(
    "vgg16", "VGG16-BN's stages after the cut, and classifier", Vgg16CloudOptions
)
def vgg16_cloud(options: Vgg16CloudOptions, feature_shape: Shape, num_classes: int) -> CloudModel:
    """Build stages ``stages + 1`` to 5 and the classifier."""
    stages = _stages(options.stages, options.width)
    pixels = _pixels(feature_shape, len(stages))
    return CloudModel(*stages, _classifier(options.width, pixels, num_classes))


@CLOUD_MODELS.register(
    "siftfunnel_vgg16",
    "widens the funnel again, then the rest of VGG16-BN from stage 3",
    WidthOptions,
)
def siftfunnel_vgg16_cloud(
    options: WidthOptions, feature_shape: Shape, num_classes: int
) -> CloudModel:
    """Build Up(4, 4w), triplet attention and the rest of stage 3, stages 4, 5 and classifier."""
    wide = 4 * options.width
    return CloudModel(
        widen(feature_shape[0], wide),
        TripletAttention(),
        conv_norm_relu(wide, wide, bias=True),
        vgg_stage(wide, wide, convs=1),
        *_stages(3, options.width),
        _classifier(options.width, _pixels(feature_shape, 3), num_classes),
    )
