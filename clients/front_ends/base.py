"""The contract of a front-end."""

from typing import Any

from torch import Tensor, nn


class FrontEnd(nn.Module):
    """The layers a device runs, from an image to the features that cross the cut.

    The submodules run one after another, in the order in which they are assigned; lists of modules
    do not.

    Attributes
    ----------
    feature_shape : (C, H, W) of the features of one image.
    cloud_model : name and options of the registered cloud half that continues from the cut.
    """

    feature_shape: tuple[int, int, int]
    cloud_model: tuple[str, dict[str, Any]]

    def pre_funnel(self) -> nn.Module | None:
        """Return the layers before the funnel, or None; a defence may penalise their output."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (N, C, H, W) to features (N, *feature_shape)."""
        for layer in self.children():
            if not isinstance(layer, nn.ModuleList):  # the quantisers of int8 work in hooks
                x = layer(x)
        return x
