"""The shared cloud model: entry layers per tier, so that different front-ends feed one trunk.

The trunk is the cloud half of the arm's own front-end. A tier whose features have another shape
gets learned entry layers that map them to the trunk's input. Larger features pass the blocks that
this tier's devices leave out (conv 3x3, BN, max-pool 2, ReLU); smaller ones are upsampled by
nearest neighbour. A 1x1 or 3x3 convolution maps the result to the trunk's channels.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from server.cloud_models.base import CloudModel
from testbed.core.layers import conv_block

Shape = tuple[int, int, int]


def entry_layers(features: Shape, trunk: Shape) -> nn.Module:
    """Return the layers from one tier's features (C, H, W) to the trunk's input (C', H', W')."""
    if features == trunk:
        return nn.Identity()
    channels, height, width = features
    layers: list[nn.Module] = []
    while height >= 2 * trunk[1] and width >= 2 * trunk[2]:
        layers.append(conv_block(channels, trunk[0]))
        channels, height, width = trunk[0], height // 2, width // 2
    if (height, width) != trunk[1:]:
        layers.append(nn.Upsample(size=trunk[1:], mode="nearest"))
    if channels != trunk[0] or layers == [] or isinstance(layers[-1], nn.Upsample):
        kernel = 3 if layers else 1
        layers += [
            nn.Conv2d(channels, trunk[0], kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(trunk[0]),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class TieredCloudModel(nn.Module):
    """One trunk, with entry layers for each tier.

    Parameters
    ----------
    trunk : from features of ``shapes[0]`` to class logits (N, K).
    shapes : (C, H, W) of each tier's features; the first is the arm's own front-end's.
    """

    def __init__(self, trunk: CloudModel, shapes: Sequence[Shape], num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.entry_layers = nn.ModuleList(entry_layers(shape, shapes[0]) for shape in shapes)
        self.shapes = tuple(shapes)
        self.num_classes = num_classes

    def enter(self, z: Tensor, tier: int) -> Tensor:
        """Bring one tier's features (N, *shapes[tier]) to the trunk's input shape."""
        entered: Tensor = self.entry_layers[tier](z)
        return entered

    def forward(self, z: Tensor, tier: int = 0) -> Tensor:
        """Map one tier's features to logits (N, K)."""
        logits: Tensor = self.trunk(self.enter(z, tier))
        return logits

    def path(self, tier: int) -> CloudModel:
        """Return the layers of one tier as a module, whose costs can be measured."""
        return CloudModel(self.entry_layers[tier], self.trunk)
