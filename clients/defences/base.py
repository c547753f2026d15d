"""The contract of a defence: what it changes in the targets, the loss and the features."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from testbed.wire.encoding import FLOAT32, WireFormat, encode

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Batch:
    """One training batch of a device, after its forward pass.

    Attributes
    ----------
    x : images in [0, 1] (N, C, H, W).
    labels : their classes (N,).
    z : features before release (N, C', H', W').
    released : features as they travel, of the same shape.
    pre_funnel : output of the front-end's ``pre_funnel`` layers, where it has them.
    """

    x: Tensor
    labels: Tensor
    z: Tensor
    released: Tensor
    pre_funnel: Tensor | None = None

    def without_gradients(self) -> "Batch":
        """Return the same values, cut off from the front-end: what an adversary learns from."""
        return replace(self, z=self.z.detach(), released=self.released.detach())


class Defence:
    """No change at all; a defence overrides what it changes.

    The front-end sees ``view(x)``, the device's loss is ``task_weight * KL(targets || p) +
    penalty(batch)``, and what travels is ``release(z)``, in training as in serving.

    A defence may have trained modules of its own, which ``build`` makes. Their weights travel and
    are aggregated with the front-end's. The testbed puts a device's weights into them before it
    calls any method, so a defence uses them like any module. They hold parameters only, no buffers.

    Attributes
    ----------
    release_layers : what the device runs in ``release``; trained by the device's loss, deployed
        with the front-end and counted in what the device pays.
    adversary : what exists in training only, trained by ``adversary_loss`` in alternation.
    """

    task_weight: float = 1.0
    changes_view: bool = False
    """Whether ``view`` does anything, so that its work is measured with the device's."""
    wire: WireFormat = FLOAT32
    """What the wire may assume of released features; it never changes their bits."""
    release_layers: nn.Module | None = None
    adversary: nn.Module | None = None

    def build(self, image_shape: Shape, feature_shape: Shape, num_classes: int) -> None:
        """Make the modules that the defence needs; none by default.

        Raises
        ------
        ValueError : the defence does not work with these shapes, and why.
        """

    def view(self, x: Tensor) -> Tensor:
        """Return what the front-end sees in place of images ``x`` (N, C, H, W) in [0, 1].

        One image's view does not depend on the other images of the batch, nor on chance.
        """
        return x

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the label distribution (N, K) that the device sends; one-hot by default."""
        return torch.nn.functional.one_hot(labels, num_classes).float()

    def penalty(self, batch: Batch) -> Tensor | None:
        """Return the defence's own terms of the device's loss, or None."""
        return None

    def adversary_loss(self, batch: Batch) -> Tensor:
        """Return the loss of the ``adversary``'s weights; the batch comes without gradients."""
        raise NotImplementedError

    def adversary_learning_rate(self, name: str) -> float:
        """Return the learning rate (Adam) of the adversary's parameter ``name``."""
        raise NotImplementedError

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return what is sent in place of ``z``, drawn from ``rng`` if random; differentiable.

        One image's release does not depend on the other images of the batch, random draws apart.
        """
        return z

    def encode(self, released: Tensor) -> dict[str, Tensor]:
        """Return the arrays that travel; ``testbed.wire.encoding.decode`` gives ``released``."""
        return encode(released, self.wire)

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return what is worth reporting of a release, by name with unit; nothing by default.

        Parameters
        ----------
        z, released : features (N, C', H', W') of many images before and after the release.
        """
        return {}

    def signal(self, z: Tensor) -> Tensor:
        """Return what ``release`` adds its noise to, where it adds any; differentiable.

        What happens to the noisy signal afterwards does not matter: it cannot tell more.
        """
        return z

    def equivalent_noise_std(self) -> float | None:
        """Return s, where additive noise tells as much about ``signal`` as N(0, s^2) would.

        That is, 1 / s^2 is the Fisher information of the noise's location; None for a release that
        is no signal plus independent noise. Error bounds on any attack's error follow from it.
        """
        return None
