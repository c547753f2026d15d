"""The software of a device: its front-end and defence, and their training options."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn

from clients.defences.base import Batch, Defence
from clients.front_ends.base import FrontEnd
from clients.precision import Int8Emulation
from testbed.core.compute import compute_device, without_autocast
from testbed.core.layers import channels_last, set_statistics_momentum
from testbed.core.registries import DEFENCES, FRONT_ENDS
from testbed.core.seeds import global_stream, torch_generator
from testbed.core.state_dicts import below, under
from testbed.scenario.components import Component
from testbed.scenario.schema import Precision
from testbed.scenario.training import EdgeOptimiserSection
from testbed.wire.encoding import encode, payload_bytes
from testbed.wire.protocol import FIRST_MOMENT, SECOND_MOMENT
from testbed.wire.quantisation import quantise

T = TypeVar("T")
INT8_BITS = 8
DEFENCE = "defence."
RELEASE = DEFENCE + "release."
ADVERSARY = DEFENCE + "adversary."
"""Prefixes of the weights of a defence's own modules, among the front-end's."""


@dataclass(frozen=True)
class DeviceSpec:
    """The device side of an arm, as plain data that is sent to every host once.

    Attributes
    ----------
    arm : name of the arm.
    image_shape : (C, H, W) of an image.
    channel_mean, channel_std : normalisation of the inputs, one number per channel.
    tier : name of the devices of the arm that run it.
    precision : number format of weights, activations and released features.
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
    tier: str = "all"
    precision: Precision = "float32"

    def build(self) -> "EdgeModel":
        """Build front-end and defence; the first weights depend on the seed alone."""
        return EdgeModel(self)


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw PyTorch's default weights from ``generator`` instead of the global random state."""
    with global_stream(generator):
        for layer in module.modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()


class _Modules(nn.Module):
    """All modules of a device that have weights; calls run with weights that the caller passes.

    ``torch.func.functional_call`` replaces the weights of a module during its forward pass, and the
    forward pass of this module runs any function.
    """

    def __init__(self, front_end: FrontEnd, defence: Defence) -> None:
        super().__init__()
        self.front_end = front_end
        self.defence = nn.ModuleDict()
        if defence.release_layers is not None:
            self.defence["release"] = defence.release_layers
        if defence.adversary is not None:
            self.defence["adversary"] = defence.adversary

    def forward(self, call: Callable[[], T]) -> T:
        return call()


class _OnDevice(nn.Module):
    """The front-end and the layers of its defence on the device, as one module."""

    def __init__(self, front_end: FrontEnd, defence: Defence) -> None:
        super().__init__()
        self.front_end = front_end
        self.release_layers = defence.release_layers
        self._defence = defence

    def forward(self, x: Tensor) -> Tensor:
        z = self.front_end(self._defence.view(x))
        return self._defence.release(z, torch_generator(0, "measured release"))


class EdgeModel:
    """A front-end, its defence and its input normalisation, shared by all devices of a process.

    Devices differ in weights, not in code, so every call takes the weights. Those of the defence's
    own modules have the prefix ``defence.``.
    """

    def __init__(self, device_spec: DeviceSpec) -> None:
        self.device_spec = device_spec
        self.front_end: FrontEnd = FRONT_ENDS.create(
            device_spec.front_end.name,
            device_spec.front_end.options,
            image_shape=device_spec.image_shape,
        )
        initialise(self.front_end, torch_generator(device_spec.seed, "front-end weights"))
        self._int8 = Int8Emulation(self.front_end) if device_spec.precision == "int8" else None
        self.defence: Defence = DEFENCES.create(
            device_spec.defence.name, device_spec.defence.options
        )
        self.defence.build(
            device_spec.image_shape, self.front_end.feature_shape, device_spec.num_classes
        )
        self._modules = _Modules(self.front_end, self.defence)
        initialise(self._modules.defence, torch_generator(device_spec.seed, "defence weights"))
        if any(True for _ in self._modules.defence.buffers()):
            raise ValueError("the modules of a defence must not have buffers")
        shape = (1, len(device_spec.channel_mean), 1, 1)
        self._mean = torch.tensor(device_spec.channel_mean).reshape(shape)
        self._std = torch.tensor(device_spec.channel_std).reshape(shape)
        self._pre_funnel: list[Tensor] = []
        layers = self.front_end.pre_funnel()
        if layers is not None:
            layers.register_forward_hook(self._keep_pre_funnel)

    def _keep_pre_funnel(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._pre_funnel = [output]

    def initial_weights(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return copies of the first parameters and buffers, by name."""
        return (
            {name: value.detach().clone() for name, value in self.own_parameters().items()},
            {name: value.clone() for name, value in statistics_of(self.front_end).items()},
        )

    def initial_moments(self) -> dict[str, Tensor]:
        """Return Adam's first moments, all zero: of what Adam trains on the devices.

        A defence's adversary is trained by Adam, whatever optimiser the front-end has.
        """
        own: Mapping[str, Tensor] = self.own_parameters()
        if self.device_spec.optimiser.method != "adam":
            own = under(ADVERSARY, below(ADVERSARY, own))
        zeros = {name: torch.zeros_like(value.detach()) for name, value in own.items()}
        return under(FIRST_MOMENT, zeros) | {
            name: value.clone() for name, value in under(SECOND_MOMENT, zeros).items()
        }

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """Return the modules' own parameters, by name; central training changes them."""
        defence = under(DEFENCE, dict(self._modules.defence.named_parameters()))
        return {**dict(self.front_end.named_parameters()), **defence}

    def own_adversary(self) -> dict[str, nn.Parameter]:
        """Return the own parameters of the defence's adversary, without their prefix."""
        return below(ADVERSARY, self.own_parameters())

    def own_weights(self) -> dict[str, Tensor]:
        """Return ``own_parameters`` and the buffers; training changes them in place."""
        return {**self.own_parameters(), **statistics_of(self.front_end)}

    def on_device(self) -> nn.Module:
        """Return the module that a device runs for an image, with its own weights."""
        if self.defence.release_layers is None and not self.defence.changes_view:
            return self.front_end
        return _OnDevice(self.front_end, self.defence)

    @cached_property
    def payload_bytes(self) -> int:
        """The bytes of an image's features on the wire, with the first weights."""
        rng = torch_generator(0, "payload")
        x = torch.rand(1, *self.device_spec.image_shape, generator=rng)
        parameters, statistics = self.initial_weights()
        with torch.no_grad():
            released = self.features({**parameters, **statistics}, x, rng)[1]
        return payload_bytes(self.encode(released))

    def with_weights(self, weights: Mapping[str, Tensor], call: Callable[[], T]) -> T:
        """Return the result of ``call()`` with the given parameters and buffers in the modules."""
        named = {
            name if name.startswith(DEFENCE) else f"front_end.{name}": value
            for name, value in weights.items()
        }
        result: T = torch.func.functional_call(self._modules, named, (call,))
        return result

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
        training_step : step of the round in training; None evaluates.

        Returns
        -------
        Features before release, released features, and the pre-funnel output if there is one.
        """
        self.front_end.train(training_step is not None)
        if training_step is not None:
            # All batches of a round have equal weight; the server blends the rounds.
            set_statistics_momentum(self.front_end, 1.0 / (training_step + 1))
        return self._run(weights, x, rng)

    def own_batch(self, x: Tensor, labels: Tensor, rng: torch.Generator) -> Batch:
        """Run the front-end with ``own_weights``, in its current mode; all results are float32."""
        z, released, pre_funnel = self._run(self.own_weights(), x, rng)
        # Distances and correlations need the range and the digits of single precision.
        pre_funnel = None if pre_funnel is None else pre_funnel.float()
        return Batch(x, labels, z, released, pre_funnel)

    def _run(
        self, weights: Mapping[str, Tensor], x: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        normalised = (self.defence.view(x) - self._mean) / self._std
        normalised = channels_last(normalised)
        self._pre_funnel = []

        def run() -> tuple[Tensor, Tensor]:
            z = self.front_end(normalised).to(x.dtype)
            # Noise and rounding need single precision where the front-end runs in a lower one.
            with without_autocast(x.device):
                released = self.defence.release(z, rng)
            return z, quantise(released, INT8_BITS) if self._rounds_release else released

        if self._int8 is not None:
            weights = self._int8.weights(weights)
        z, released = self.with_weights(weights, run)
        return z, released, self._pre_funnel.pop() if self._pre_funnel else None

    @property
    def _rounds_release(self) -> bool:
        """Whether features are rounded to int8 here; a quantising defence already does it."""
        return self._int8 is not None and self.defence.wire.bits > INT8_BITS

    def to(self, device: torch.device) -> None:
        """Move the modules' own weights and the normalisation."""
        self._modules.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)

    def encode(self, released: Tensor) -> dict[str, Tensor]:
        """Return the arrays that travel; ``testbed.wire.encoding.decode`` gives ``released``."""
        if self._rounds_release:
            return encode(released, replace(self.defence.wire, bits=INT8_BITS))
        return self.defence.encode(released)


def deployable(parameters: Mapping[str, T]) -> dict[str, T]:
    """Return the parameters that devices need to serve: all but the adversary's."""
    return {name: value for name, value in parameters.items() if not name.startswith(ADVERSARY)}


def statistics_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the float buffers (batch-norm statistics), which are averaged and never optimised."""
    return {name: buffer for name, buffer in module.named_buffers() if buffer.is_floating_point()}


def compute_layout(weight: Tensor) -> Tensor:
    """Return a private copy to compute with: on the device, in convolutions' fastest layout."""
    copy = weight.detach().to(compute_device(), copy=True)
    return copy.contiguous(memory_format=torch.channels_last) if copy.dim() == 4 else copy
