"""Which images train, test, attack and are attacked: disjoint parts, equal for every arm."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from clients.defences.siftfunnel_plus import without_low_frequencies
from frontier.measurement import AttackSetting
from testbed.adversaries.base import LabelledImages
from testbed.core.errors import UserError
from testbed.core.seeds import generator
from testbed.data.federated import load_pool
from testbed.data.images import ImagePool
from testbed.data.order import in_drawn_order
from testbed.data.splits import split
from testbed.scenario.schema import DataSection

VALIDATION_IMAGES = 500
"""Of the attacker, for the plateau of a decoder and the penalty of a ridge."""


@dataclass(frozen=True)
class FrontierImages:
    """The images of a comparison.

    Attributes
    ----------
    training_images, training_labels : uint8 (N, C, H, W) and int64 (N,).
    tested : what accuracy and leakage measures are taken on; holds the victims.
    """

    num_classes: int
    training_images: NDArray[np.uint8]
    training_labels: NDArray[np.int64]
    tested: LabelledImages
    attack_setting: AttackSetting

    def anchors(self) -> dict[str, float]:
        """Return the MSE on victims of two answers that need no features."""
        victims = self.attack_setting.victims.images
        mean_image = self.attack_setting.auxiliary.images.mean(axis=0)
        mean_colour = victims.mean(axis=(2, 3), keepdims=True)
        return {
            "mean image": float(np.square(victims - mean_image).mean()),
            "each image's mean colour": float(np.square(victims - mean_colour).mean()),
        }

    def hidden_variance(self) -> dict[int, float]:
        """Return the variance per element that a view without k x k frequencies hides, by k."""
        images = torch.from_numpy(self.attack_setting.auxiliary.images)
        deviations = images - images.mean(dim=0)
        total = float(deviations.square().mean())
        return {
            k: total - float(without_low_frequencies(deviations, k).square().mean())
            for k in (1, 2, 3, 4, 6, 8)
        }


def load_images(training: int, auxiliary: int, victims: int, tested: int) -> FrontierImages:
    """Load CIFAR-10 and cut its five parts to the sizes asked for.

    Raises
    ------
    UserError : no data, or more images of a part than there are.
    """
    section = DataSection(name="cifar10")
    pool = in_drawn_order(load_pool(section), seed=0)
    parts = split(pool, section.splits, seed=0)
    rows = _take(parts.training, training, "training")
    return FrontierImages(
        pool.num_classes,
        pool.images[rows],
        pool.labels[rows],
        _labelled(pool, parts.victims, tested, "victims"),
        AttackSetting(
            _labelled(pool, parts.auxiliary, auxiliary, "auxiliary"),
            _labelled(pool, parts.auxiliary_validation, VALIDATION_IMAGES, "auxiliary validation"),
            _labelled(pool, parts.victims, victims, "victims"),
            pool.num_classes,
        ),
    )


def _take(part: NDArray[np.int64], count: int, name: str) -> NDArray[np.int64]:
    """Return the first ``count`` of a fixed order: smaller requests are subsets of larger ones."""
    if count > len(part):
        raise UserError(f"--{name}: {count} images were asked for, this part has {len(part)}")
    return part[generator(0, f"frontier {name}").permutation(len(part))[:count]]


def _labelled(pool: ImagePool, part: NDArray[np.int64], count: int, name: str) -> LabelledImages:
    rows = _take(part, count, name)
    return LabelledImages(pool.images[rows].astype(np.float32) / 255.0, pool.labels[rows])
