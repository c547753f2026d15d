"""Workload D: the provider's training of the published CNNs on random images of 32x32x3."""

import itertools
import time

import numpy as np
import torch

from clients.device_spec import DeviceSpec, EdgeModel, initialise
from server.edge_interface import ProviderTier
from server.entry_layers import TieredCloudModel
from server.provider import ProviderImages, ProviderTraining
from speed.workload import CLASSES
from testbed.core.registries import CLOUD_MODELS
from testbed.core.seeds import torch_generator
from testbed.scenario.components import Component
from testbed.scenario.training import EdgeOptimiserSection, ProviderSection

ARMS = {"undefended": ("cnn", "none"), "siftfunnel": ("siftfunnel_cnn", "siftfunnel")}
PRECISIONS = ("fp32", "bf16")
CASES = tuple(f"D {arm} {precision}" for arm in ARMS for precision in PRECISIONS)
IMAGES, VALIDATION_IMAGES = 1280, 128
AUGMENTATION = {
    "horizontal_flip": True,
    "crop_padding_px": 4,
    "brightness": 0.2,
    "contrast": 0.2,
    "saturation": 0.2,
    "hue": 0.2,
}
"""That of arXiv 2501.00824."""
MEAN, STD = 0.5, 0.25


def section(precision: str, epochs: int, threads: int | None = None) -> ProviderSection:
    """Return the options of the training; the other defaults are the published ones."""
    return ProviderSection.model_validate(
        {
            "epochs": epochs,
            "precision": precision,
            "threads": threads,
            "augmentation": AUGMENTATION,
        }
    )


def random_images() -> ProviderImages:
    """Return images and labels, equal in every process."""
    rng = np.random.default_rng(0)
    parts: list[np.ndarray] = []
    for count in (IMAGES, VALIDATION_IMAGES):
        parts.append(rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8))
        parts.append(rng.integers(0, CLASSES, count))
    return ProviderImages(*parts)


def halves(arm: str) -> tuple[EdgeModel, TieredCloudModel]:
    """Return the front-end with its defence, and the cloud half, with their first weights."""
    front_end, defence = ARMS[arm]
    edge = DeviceSpec(
        arm=arm,
        seed=0,
        front_end=Component(name=front_end, options={}),
        defence=Component(name=defence, options={}),
        image_shape=(3, 32, 32),
        num_classes=CLASSES,
        channel_mean=(MEAN,) * 3,
        channel_std=(STD,) * 3,
        batch_size=10,
        optimiser=EdgeOptimiserSection(),
    ).build()
    name, options = edge.front_end.cloud_model
    shape = edge.front_end.feature_shape
    trunk = CLOUD_MODELS.create(name, options, feature_shape=shape, num_classes=CLASSES)
    cloud = TieredCloudModel(trunk, [shape], CLASSES)
    initialise(cloud, torch_generator(0, "cloud weights"))
    return edge, cloud


def our_training(
    arm: str, precision: str, epochs: int, threads: int | None = None
) -> ProviderTraining:
    """Return the testbed's training of an arm."""
    edge, cloud = halves(arm)
    return ProviderTraining(
        section(precision, epochs, threads),
        0,
        [ProviderTier(edge)],
        cloud,
        random_images(),
        torch.device("cpu"),
    )


def run(case: str, epochs: int) -> list[float]:
    """Return the seconds of each epoch of one of ``CASES``, on all cores."""
    _, arm, precision = case.split(" ")
    training = our_training(arm, precision, epochs)
    ends = [time.perf_counter()]
    training.run(lambda record: ends.append(time.perf_counter()))
    return [end - start for start, end in itertools.pairwise(ends)]
