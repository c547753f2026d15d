"""The contract of a cloud model."""

from torch import Tensor, nn


class CloudModel(nn.Module):
    """The layers the server runs, from features (N, C', H', W') to class logits (N, K)."""

    def forward(self, z: Tensor) -> Tensor:
        """Map features to logits."""
        raise NotImplementedError
