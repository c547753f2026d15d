"""What is installed on every device of an arm: the front-end, the defence and how to train them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clients.defences.base import Defence
from clients.front_ends.base import FrontEnd
from testbed.core.blocks import set_statistics_momentum
from testbed.core.registries import DEFENCES, FRONT_ENDS
from testbed.core.scenario import Component, EdgeOptimiserSection
from testbed.core.seeds import torch_generator


@dataclass(frozen=True)
class EdgeProgram:
    """The description of an arm's device side; plain data, sent to every host once.

    Attributes
    ----------
    arm : name of the arm.
    image_shape : (C, H, W) of an image.
    channel_mean, channel_std : normalisation of the inputs, one number per channel.
    """

    arm: str
    seed: int
    front_end: Component
    defence: Component
    image_shape: tuple[int, int, int]
    num_classes: int
    channel_mean: tuple[float, ...]
    channel_std: tuple[float, ...]
    batch_size: int
    optimiser: EdgeOptimiserSection

    def build(self) -> "EdgeModel":
        """Build the front-end and the defence; its first weights depend on the seed alone."""
        return EdgeModel(self)


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw PyTorch's default weights from ``generator`` instead of the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.set_state(generator.get_state())
        for layer in module.modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()


class EdgeModel:
    """A front-end, its defence and its input normalisation, shared by all devices of a process.

    Weights are passed to every call: devices differ in weights, not in code.
    """

    def __init__(self, program: EdgeProgram) -> None:
        self.program = program
        self.front_end: FrontEnd = FRONT_ENDS.create(
            program.front_end.name, program.front_end.options, image_shape=program.image_shape
        )
        initialise(self.front_end, torch_generator(program.seed, "front-end weights"))
        self.defence: Defence = DEFENCES.create(program.defence.name, program.defence.options)
        shape = (1, len(program.channel_mean), 1, 1)
        self._mean = torch.tensor(program.channel_mean).reshape(shape)
        self._std = torch.tensor(program.channel_std).reshape(shape)
        self._pre_funnel: list[Tensor] = []
        layers = self.front_end.pre_funnel()
        if layers is not None:
            layers.register_forward_hook(self._keep_pre_funnel)

    def _keep_pre_funnel(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._pre_funnel = [output]

    def initial_weights(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return copies of the first parameters and buffers, by name."""
        return (
            {name: value.detach().clone() for name, value in self.front_end.named_parameters()},
            {name: value.clone() for name, value in statistics_of(self.front_end).items()},
        )

    def features(
        self,
        weights: Mapping[str, Tensor],
        x: Tensor,
        rng: torch.Generator,
        training_step: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run the front-end with the given weights.

        Parameters
        ----------
        weights : parameters and buffers by name; buffers are updated in place when training.
        x : images in [0, 1] (N, C, H, W).
        training_step : step of the round when training; None evaluates.

        Returns
        -------
        Features before release, features as released, and the pre-funnel output where there is one.
        """
        self.front_end.train(training_step is not None)
        if training_step is not None:
            # All batches of a round count alike; the server blends the round into what it has.
            set_statistics_momentum(self.front_end, 1.0 / (training_step + 1))
        normalised = (self.defence.view(x) - self._mean) / self._std
        normalised = normalised.contiguous(memory_format=torch.channels_last)
        self._pre_funnel = []
        z = torch.func.functional_call(self.front_end, dict(weights), (normalised,))
        released = self.defence.release(z, rng)
        return z, released, self._pre_funnel.pop() if self._pre_funnel else None


def statistics_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the float buffers (batch-norm statistics), which are averaged and never optimised."""
    return {name: buffer for name, buffer in module.named_buffers() if buffer.is_floating_point()}


def compute_layout(weight: Tensor) -> Tensor:
    """Return a private copy of ``weight`` in the layout that convolutions run fastest in."""
    copy = weight.detach().clone()
    return copy.contiguous(memory_format=torch.channels_last) if copy.dim() == 4 else copy
