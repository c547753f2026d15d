"""Defences that go on top of another one."""

import torch
from torch import Tensor

from clients.defences.base import Batch, Defence, Shape
from testbed.core.registries import DEFENCES
from testbed.scenario.components import Component


class Wrapping(Defence):
    """Does everything as its base does; a subclass overrides what it adds.

    Parameters
    ----------
    base : the defence underneath, whose release comes first.
    """

    def __init__(self, base: Component) -> None:
        self.base: Defence = DEFENCES.create(base.name, base.options)
        self.task_weight = self.base.task_weight
        self.wire = self.base.wire
        self.changes_view = self.base.changes_view

    def build(self, image_shape: Shape, feature_shape: Shape, num_classes: int) -> None:
        """Build the base; its modules are this one's."""
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
        """Return what the base releases."""
        return self.base.release(z, rng)

    def signal(self, z: Tensor) -> Tensor:
        """Return what the base adds its noise to."""
        return self.base.signal(z)

    def equivalent_noise_std(self) -> float | None:
        """Return the base's noise: what is done to its release afterwards tells nothing more."""
        return self.base.equivalent_noise_std()

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return the statistics of the base's release."""
        return self.base.release_statistics(z, released)


def names_in(component: Component) -> list[str]:
    """Return the names of a defence and of everything that it goes on top of."""
    base = component.options.get("base")
    if base is None:
        return [component.name]
    if not isinstance(base, Component):
        rest = {key: value for key, value in base.items() if key != "name"}
        base = Component(name=base["name"], options=rest)
    return [component.name, *names_in(base)]


def refuse_twice(name: str, base: Component) -> None:
    """Refuse a defence on top of itself.

    Raises
    ------
    ValueError : says so.
    """
    if name in names_in(base):
        raise ValueError(f"'{name}' on top of '{name}' does nothing more: take one of them away")
