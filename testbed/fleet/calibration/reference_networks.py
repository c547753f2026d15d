"""The networks of the calibration measurements, for timing on this host.

They follow their papers. Tests check their costs against published tables, and thereby
``testbed.fleet.layer_stats``.
"""

from collections.abc import Callable

from torch import Tensor, nn

Shape = tuple[int, int, int]


def _conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU6,
) -> nn.Sequential:
    """Return convolution, batch normalisation and, unless None, the activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
    ]
    return nn.Sequential(*layers, *([activation()] if activation else []))


def _head(channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def mobilenet_v1(width: float, channels: int, classes: int) -> nn.Module:
    """Return MobileNetV1 (arXiv 1704.04861, table 1)."""
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    plan += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    current = int(32 * width)
    layers = [_conv(channels, current, 3, 2, activation=nn.ReLU)]
    for nominal, stride in plan:
        wide = int(nominal * width)
        layers.append(_conv(current, current, 3, stride, current, nn.ReLU))
        layers.append(_conv(current, wide, 1, activation=nn.ReLU))
        current = wide
    return nn.Sequential(*layers, _head(current, classes))


class _InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, linear bottleneck (arXiv 1801.04381, table 1)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers = [_conv(in_channels, hidden, 1)] if expansion > 1 else []
        layers.append(_conv(hidden, hidden, 3, stride, hidden))
        layers.append(_conv(hidden, out_channels, 1, activation=None))
        self.layers = nn.Sequential(*layers)
        self.skips = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.skips else y


def mobilenet_v2(classes: int = 1000) -> nn.Module:
    """Return MobileNetV2 (arXiv 1801.04381, table 2)."""
    plan = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]
    plan += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    current = 32
    layers: list[nn.Module] = [_conv(3, current, 3, 2)]
    for expansion, wide, repeats, first_stride in plan:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            layers.append(_InvertedResidual(current, wide, stride, expansion))
            current = wide
    return nn.Sequential(*layers, _conv(current, 1280, 1), _head(1280, classes))


class _Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(in_channels, out_channels, 3, stride, activation=nn.ReLU)
        self.second = _conv(out_channels, out_channels, 3, activation=None)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1, stride) if changes else nn.Identity()
        )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.second(self.first(x)) + self.shortcut(x))
        return y


def resnet8() -> nn.Module:
    """Return the image-classification network of MLPerf Tiny (arXiv 2106.07597), 10 classes."""
    blocks = [_Residual(16, 16, 1), _Residual(16, 32, 2), _Residual(32, 64, 2)]
    return nn.Sequential(_conv(3, 16, 3, activation=nn.ReLU), *blocks, _head(64, 10))


REFERENCE_NETWORKS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "mobilenet_v2": (mobilenet_v2, (3, 224, 224)),
    "mobilenet_v1_1.0_224": (lambda: mobilenet_v1(1.0, 3, 1000), (3, 224, 224)),
    "mobilenet_v1_0.25_128": (lambda: mobilenet_v1(0.25, 3, 1000), (3, 128, 128)),
    "vww_mobilenetv1_0.25_96": (lambda: mobilenet_v1(0.25, 3, 2), (3, 96, 96)),
    "person_detection (MobileNetV1 0.25 96x96x1)": (
        lambda: mobilenet_v1(0.25, 1, 2),
        (1, 96, 96),
    ),
    "ic_resnet8": (resnet8, (3, 32, 32)),
}
"""Builder and input shape by the network's name in the published tables."""
