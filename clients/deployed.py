"""A trained front-end as it is deployed: weights, defence and normalisation, ready to serve."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.defences.base import Defence
from clients.device_spec import DeviceSpec, EdgeModel, compute_layout
from testbed.core.compute import as_array, compute_device, on_device
from testbed.core.seeds import torch_generator

CHUNK = 16  # images per forward pass; larger batches do not fit the cache


@dataclass(frozen=True)
class DeployedFrontEnd:
    """The front-end that devices run, and that an adversary may be granted.

    Attributes
    ----------
    parameters, statistics : weights by name, as numpy arrays, which are cheap to serialise.
    """

    device_spec: DeviceSpec
    parameters: Mapping[str, NDArray[np.float32]]
    statistics: Mapping[str, NDArray[np.float32]]

    def __getstate__(self) -> dict[str, object]:
        """Leave the module out: another process builds its own."""
        return {name: value for name, value in self.__dict__.items() if name != "runner"}

    @cached_property
    def runner(self) -> "FrontEndRunner":
        """The module that runs it in this process."""
        tensors = {
            name: torch.from_numpy(np.array(value))
            for name, value in (*self.parameters.items(), *self.statistics.items())
        }
        return FrontEndRunner(self.device_spec.build(), tensors)

    def query(self, images: NDArray[np.float32], draw: int) -> NDArray[np.float32]:
        """Return released features of images in [0, 1]; random releases differ between draws."""
        rng = torch_generator(self.device_spec.seed, "oracle", draw)
        with torch.no_grad():
            # Copies, because arrays from Ray's object store are read-only.
            chunks = [
                as_array(self.runner.released(torch.tensor(images[start : start + CHUNK]), rng))
                for start in range(0, len(images), CHUNK)
            ]
        return np.ascontiguousarray(np.concatenate(chunks))

    def differentiable_query(self, x: Tensor, draw: int) -> Tensor:
        """Return released features of ``x`` (N, C, H, W) in [0, 1], with gradients to ``x``."""
        return self.runner.released(x, torch_generator(self.device_spec.seed, "oracle", draw))


class FrontEndRunner:
    """Runs one set of weights in evaluation mode.

    It takes images on any device, and returns features on the one that this process computes on.
    """

    def __init__(self, model: EdgeModel, weights: Mapping[str, Tensor]) -> None:
        self._model = model
        model.to(compute_device())
        self._weights = {name: compute_layout(value) for name, value in weights.items()}

    @property
    def defence(self) -> Defence:
        """The defence of the front-end."""
        return self._model.defence

    def signal(self, x: Tensor) -> Tensor:
        """Return the features that the release adds its noise to, with gradients to ``x``."""
        z = self._model.features(self._weights, on_device(x), torch_generator(0, "signal"))[0]
        defence = self._model.defence
        return self._model.with_weights(self._weights, lambda: defence.signal(z))

    @torch.no_grad()
    def released_array(
        self, images: NDArray[np.float32], rng: torch.Generator
    ) -> NDArray[np.float32]:
        """Return the features that travel for images in [0, 1], as an array."""
        released: NDArray[np.float32] = as_array(self.released(torch.tensor(images), rng))
        return released

    def released(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return the features that travel for images in [0, 1] (N, C, H, W)."""
        return self._model.features(self._weights, on_device(x), rng)[1]

    def before_and_after(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the features before the release and as they travel."""
        with torch.no_grad():
            z, released, _ = self._model.features(self._weights, on_device(x), rng)
        return z, released

    def release_statistics(self, z: Tensor, released: Tensor) -> dict[str, float]:
        """Return the defence's statistics of a release, with these weights in its modules."""
        defence = self._model.defence
        with torch.no_grad():
            return self._model.with_weights(
                self._weights, lambda: defence.release_statistics(z, released)
            )

    def encode(self, released: Tensor) -> dict[str, Tensor]:
        """Return the arrays that travel for released features."""
        return self._model.encode(released)

    def request_features(self, image: Tensor, device: int, request: int) -> Tensor:
        """Return the features that travel for a device's request, uint8 (1, C, H, W).

        The bits are the same on the device and in a cloud that got the raw image.
        """
        x = image.float().div_(255.0)
        rng = torch_generator(self._model.device_spec.seed, "request release", device, request)
        return self.released(x, rng)
