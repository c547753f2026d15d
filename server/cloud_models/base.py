"""The contract of a cloud model."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from testbed.core.registry import Options

Shape = tuple[int, int, int]
Width = Annotated[int, Field(ge=8, le=256)]


class WidthOptions(Options):
    """The width of the front-end's first layer."""

    width: Width = 64


class CloudModel(nn.Module):
    """The layers that the cloud runs, from features (N, C', H', W') to class logits (N, K)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Map features to logits."""
        logits: Tensor = self.layers(z)
        return logits
