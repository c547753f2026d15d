"""The contract of a defence, and the base of defences that go on top of another one.

A defence changes the targets, the loss or the features of a device.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from testbed.core.registries import DEFENCES
from testbed.core.registry import Options
from testbed.scenario.components import Component
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
    pre_funnel : output of the front-end's ``pre_funnel`` layers, if it has them.
    """

    x: Tensor
    labels: Tensor
    z: Tensor
    released: Tensor
    pre_funnel: Tensor | None = None

    def without_gradients(self) -> "Batch":
        """Return the same values, detached from the front-end: the input of an adversary."""
        return replace(self, z=self.z.detach(), released=self.released.detach())


class Defence:
    """Changes nothing; a subclass overrides what it changes.

    The front-end sees ``view(x)``, the device's loss is ``task_weight * KL(targets || p) +
    penalty(batch)``, and the device sends ``release(z)``, in training and in serving.

    ``build`` may create trained modules. Their weights travel and are aggregated with the
    front-end's. The testbed loads a device's weights into them before it calls any method, so a
    defence uses them like any module. They hold parameters only, no buffers.

    Attributes
    ----------
    release_layers : layers that the device runs in ``release``; trained by the device's loss,
        deployed with the front-end and counted in the device's costs.
    adversary : a module of the training only, trained by ``adversary_loss`` in alternation.
    """

    task_weight: float = 1.0
    penalises_distance_correlation: bool = False
    """Whether ``penalty`` contains the V-statistic, which small batches bias towards 1."""
    changes_view: bool = False
    """Whether ``view`` does anything; its work is then measured with the device's."""
    wire: WireFormat = FLOAT32
    """What the wire may assume of released features; it never changes their bits."""
    release_layers: nn.Module | None = None
    adversary: nn.Module | None = None

    def __init__(self, options: Any) -> None:
        self.options = options

    def build(self, image_shape: Shape, feature_shape: Shape, num_classes: int) -> None:
        """Create the modules of the defence; none by default.

        Raises
        ------
        ValueError : the defence does not work with these shapes; the message says why.
        """

    def view(self, x: Tensor) -> Tensor:
        """Return the front-end's input in place of images ``x`` (N, C, H, W) in [0, 1].

        The view of an image depends neither on the other images of the batch nor on chance.
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
        """Return the features that are sent in place of ``z``; differentiable.

        The release of an image does not depend on the other images of the batch, except for the
        random draws, which come from ``rng``.
        """
        return z

    def encode(self, released: Tensor) -> dict[str, Tensor]:
        """Return the arrays that travel; ``testbed.wire.encoding.decode`` gives ``released``."""
        return encode(released, self.wire)

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return statistics of a release for the report, by name with unit; none by default.

        Parameters
        ----------
        z, released : features (N, C', H', W') of many images before and after the release.
        """
        return {}

    def signal(self, z: Tensor) -> Tensor:
        """Return the features that ``release`` adds its noise to; differentiable.

        Later steps of the release do not matter: they cannot add information.
        """
        return z

    def equivalent_noise_std(self) -> float | None:
        """Return s, if the additive noise is as informative about ``signal`` as N(0, s^2).

        That is, 1 / s^2 is the Fisher information of the noise's location. Error bounds on any
        attack follow from it. None for a release that is not signal plus independent noise.
        """
        return None


def smoothed_targets(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Return 1 - s for the true class and s / (K - 1) for the others, (N, K)."""
    shape, off = (len(labels), num_classes), smoothing / (num_classes - 1)
    return torch.full(shape, off, device=labels.device).scatter_(
        1, labels[:, None], 1.0 - smoothing
    )


class WrappingOptions(Options):
    """Options of a defence on top of another one, its field ``base``; never on top of itself."""

    defence_name: ClassVar[str]

    @model_validator(mode="after")
    def _not_on_itself(self) -> Self:
        name = self.defence_name
        if name in names_in(vars(self)["base"]):
            raise ValueError(f"'{name}' on top of '{name}' has no further effect: remove one")
        return self


def names_in(component: Component) -> list[str]:
    """Return the names of a defence and of all defences underneath."""
    base = component.options.get("base")
    if base is None:
        return [component.name]
    if not isinstance(base, Component):
        rest = {key: value for key, value in base.items() if key != "name"}
        base = Component(name=base["name"], options=rest)
    return [component.name, *names_in(base)]


class Wrapping(Defence):
    """Delegates everything to the defence underneath; a subclass overrides what it adds.

    Attributes
    ----------
    base : the defence underneath; its release comes first.
    """

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.base: Defence = DEFENCES.create(options.base.name, options.base.options)
        self.task_weight = self.base.task_weight
        self.wire = self.base.wire
        self.changes_view = self.base.changes_view
        self.penalises_distance_correlation = self.base.penalises_distance_correlation

    def build(self, image_shape: Shape, feature_shape: Shape, num_classes: int) -> None:
        """Build the base, and share its modules."""
        self.base.build(image_shape, feature_shape, num_classes)
        self.release_layers, self.adversary = self.base.release_layers, self.base.adversary

    def view(self, x: Tensor) -> Tensor:
        """Return the base's view."""
        return self.base.view(x)

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the base's targets."""
        return self.base.targets(labels, num_classes)

    def penalty(self, batch: Batch) -> Tensor | None:
        """Return the base's penalty."""
        return self.base.penalty(batch)

    def adversary_loss(self, batch: Batch) -> Tensor:
        """Return the loss of the base's adversary."""
        return self.base.adversary_loss(batch)

    def adversary_learning_rate(self, name: str) -> float:
        """Return the learning rate of the base's adversary."""
        return self.base.adversary_learning_rate(name)

    def release(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return the base's release."""
        return self.base.release(z, rng)

    def signal(self, z: Tensor) -> Tensor:
        """Return the base's signal."""
        return self.base.signal(z)

    def equivalent_noise_std(self) -> float | None:
        """Return the base's noise: processing its release further adds no information."""
        return self.base.equivalent_noise_std()

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return the statistics of the base's release."""
        return self.base.release_statistics(z, released)
