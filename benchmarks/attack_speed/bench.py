"""Benchmark cases: a part of an attack, and a plain torch loop that must give the same numbers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from clients.deployed import DeployedFrontEnd
from clients.device_spec import DeviceSpec
from testbed.adversaries.base import Evidence, FloatArray, Intercepts, LabelledImages
from testbed.adversaries.released import ChannelNormaliser
from testbed.scenario.components import Component
from testbed.scenario.training import EdgeOptimiserSection

SEED = 7
CLASSES = 10
MEAN, DEVIATION = 0.3, 0.4


@dataclass(frozen=True)
class Case:
    """A part of an attack.

    Attributes
    ----------
    phase : ``training`` or ``reconstruction``.
    images : number of images processed, counting every pass over an image.
    ours, plain : run the part and return its result; both results must agree.
    """

    attack: str
    phase: str
    images: int
    ours: Callable[[], FloatArray]
    plain: Callable[[], FloatArray]


class Bench:
    """The images, the untrained front-end and its features, shared by all cases.

    Parameters
    ----------
    auxiliary, victims : numbers of images.
    size_px : their height and width.
    """

    def __init__(self, auxiliary: int, victims: int, size_px: int, width: int) -> None:
        self.size_px = size_px
        images, labels = _digits(auxiliary + auxiliary // 5 + victims, size_px)
        ends = (auxiliary, auxiliary + auxiliary // 5)
        self.auxiliary = LabelledImages(images[: ends[0]], labels[: ends[0]])
        self.validation = LabelledImages(images[ends[0] : ends[1]], labels[ends[0] : ends[1]])
        self.architecture = Component(name="cnn", options={"cut": 2, "width": width})
        self.deployed = _front_end(self.architecture, size_px)
        self.features = self.deployed.query(images[ends[1] :], 0)
        self.answers = labels[ends[1] :]
        self.auxiliary_features = self.deployed.query(self.auxiliary.images, 0)
        self.normalise = ChannelNormaliser.fit(self.auxiliary_features)
        self.mean = self.auxiliary.images.mean(axis=0, dtype=np.float64).astype(np.float32)

    @property
    def evidence(self) -> Evidence:
        """The evidence of an attacker who is granted everything."""
        return Evidence(
            CLASSES,
            self.auxiliary,
            self.validation,
            Intercepts(self.features, self.answers),
            self.deployed,
            architecture=self.architecture,
        )

    def plain_front_end(self) -> nn.Module:
        """Return the same front-end as a plain module, without normalisation."""
        model = self.deployed.device_spec.build()
        parameters, statistics = self.deployed.parameters, self.deployed.statistics
        state = {
            name: torch.from_numpy(np.array(v)) for name, v in {**parameters, **statistics}.items()
        }
        model.front_end.load_state_dict(state, strict=False)
        front_end: nn.Module = model.front_end.eval().to(memory_format=torch.channels_last)
        return front_end.requires_grad_(requires_grad=False)


def normalised(x: Tensor) -> Tensor:
    """Return normalised images, the input of the front-end."""
    return (x - MEAN) / DEVIATION


def _digits(count: int, size_px: int) -> tuple[FloatArray, np.ndarray]:
    found = load_digits()
    rows = np.arange(count) % len(found.target)
    small = torch.tensor(found.images[rows] / 16.0, dtype=torch.float32)[:, None]
    images = functional.interpolate(small, (size_px, size_px), mode="bilinear")
    return images.contiguous().numpy(), found.target[rows].astype(np.int64)


def _front_end(architecture: Component, size_px: int) -> DeployedFrontEnd:
    device_spec = DeviceSpec(
        arm="bench",
        seed=SEED,
        front_end=architecture,
        defence=Component(name="none", options={}),
        image_shape=(1, size_px, size_px),
        num_classes=CLASSES,
        channel_mean=(MEAN,),
        channel_std=(DEVIATION,),
        batch_size=8,
        optimiser=EdgeOptimiserSection(),
    )
    parameters, statistics = device_spec.build().initial_weights()
    return DeployedFrontEnd(
        device_spec,
        {name: value.numpy() for name, value in parameters.items()},
        {name: value.numpy() for name, value in statistics.items()},
    )
