"""The contract of a defence: what it changes in the targets, the loss and the features."""

import torch
from torch import Tensor


class Defence:
    """No change at all; a defence overrides what it changes.

    The front-end sees ``view(x)``, the device's loss is ``task_weight * KL(targets || p) +
    penalty(x, z)``, and what travels is ``release(z)``, in training as in serving.
    """

    task_weight: float = 1.0

    def view(self, x: Tensor) -> Tensor:
        """Return what the front-end sees in place of images ``x`` (N, C, H, W) in [0, 1]."""
        return x

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the label distribution (N, K) that the device sends; one-hot by default."""
        return torch.nn.functional.one_hot(labels, num_classes).float()

    def penalty(self, x: Tensor, z: Tensor, pre_funnel: Tensor | None) -> Tensor | None:
        """Return the defence's own loss terms, or None.

        Parameters
        ----------
        x : images in [0, 1] (N, C, H, W).
        z : features before release (N, C', H', W').
        pre_funnel : output of the front-end's ``pre_funnel`` layers, where it has them.
        """
        return None

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return what is sent in place of ``z``, drawn from ``rng`` if random; differentiable."""
        return z
