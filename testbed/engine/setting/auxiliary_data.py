"""An adversary's auxiliary images: a share of the run's auxiliary part, or another dataset."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from testbed.adversaries.base import FloatArray, LabelledImages
from testbed.core.errors import UserError
from testbed.core.registries import DATASETS
from testbed.core.seeds import generator
from testbed.data.federated import FederatedData, to_unit
from testbed.data.order import in_drawn_order
from testbed.scenario.adversary import Adversary
from testbed.scenario.schema import Scenario

NO_LABEL = -1
FEWEST_IMAGES = 10
"""As of ``max_images`` of the section: with fewer, there is nothing to train and validate on."""
_VALIDATION_SHARE = 0.2
_LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class ForeignImages:
    """Auxiliary images of another dataset, converted to the run's image shape.

    ``warnings`` are sentences on the dataset, each with the key that names it.
    """

    auxiliary: LabelledImages
    validation: LabelledImages
    warnings: tuple[str, ...] = ()


def foreign_images(scenario: Scenario, data: FederatedData) -> Mapping[str, ForeignImages]:
    """Load the adversaries' own datasets, by the adversary's name.

    Images whose content is also in the run's pool are left out: they could be victims.

    Raises
    ------
    UserError : a dataset is missing, unreachable or unreadable, or has too few other images.
    """
    _, height, width = data.pool.image_shape
    loaded = {}
    for adversary in scenario.adversaries:
        chosen = adversary.knowledge.auxiliary_data
        if chosen is None:
            continue
        wanted = len(data.parts.auxiliary) + len(data.parts.auxiliary_validation)
        key = f"adversaries.{adversary.name}.knowledge.auxiliary_data"
        try:
            pool = DATASETS.create(
                chosen.name,
                chosen.options,
                path=chosen.path,
                image_size_px=width if width == height else None,
                max_images=chosen.max_images or wanted,
            )
        except UserError as error:
            raise UserError(f"{key}: {error}") from None
        pool = in_drawn_order(pool, scenario.seed)
        usable = np.flatnonzero(~np.isin(pool.content_keys, data.pool.content_keys))
        if len(usable) < FEWEST_IMAGES:
            raise UserError(
                f"{key}: {len(usable)} of {len(pool)} images of {pool.source} are not in the run's "
                f"data, and at least {FEWEST_IMAGES} are needed; name another dataset"
            )
        warnings = list(pool.warnings)
        if len(usable) < len(pool):
            warnings.append(
                f"{len(pool) - len(usable):,} of {len(pool):,} images are left out: they are in "
                "the run's data"
            )
        rng = generator(scenario.seed, f"auxiliary data of {adversary.name}")
        rows = rng.permutation(usable)
        images = _converted(to_unit(pool.images[rows]), data.pool.image_shape)
        held_out = max(1, round(_VALIDATION_SHARE * len(images)))
        loaded[adversary.name] = ForeignImages(
            _unlabelled(images[held_out:]),
            _unlabelled(images[:held_out]),
            tuple(f"{key}: {text}" for text in warnings),
        )
    return loaded


def _unlabelled(images: FloatArray) -> LabelledImages:
    return LabelledImages(images, np.full(len(images), NO_LABEL, dtype=np.int64))


def _converted(images: FloatArray, shape: tuple[int, int, int]) -> FloatArray:
    """Return images (N, C, H, W) in [0, 1] with the channels and size of ``shape``."""
    x = torch.from_numpy(images)
    if x.shape[1] == 3 and shape[0] == 1:
        x = (x * torch.tensor(_LUMINANCE).reshape(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    elif x.shape[1] == 1 and shape[0] > 1:
        x = x.expand(-1, shape[0], -1, -1)
    if tuple(x.shape[2:]) != shape[1:]:
        x = functional.interpolate(x, shape[1:], mode="bilinear", antialias=True)
    resized: FloatArray = x.clamp(0.0, 1.0).contiguous().numpy()
    return resized


def auxiliary_classes(adversary: Adversary, num_classes: int, seed: int) -> IntArray | None:
    """Return the classes of the adversary's images, or None for all."""
    if adversary.knowledge.auxiliary_classes == "all":
        return None
    order = generator(seed, f"classes of {adversary.name}").permutation(num_classes)
    return np.sort(order[: max(1, num_classes // 2)]).astype(np.int64)


def held_images(
    adversary: Adversary,
    data: FederatedData,
    foreign: Mapping[str, ForeignImages],
    seed: int,
) -> tuple[LabelledImages, LabelledImages]:
    """Return the adversary's auxiliary and auxiliary-validation images."""
    share = adversary.knowledge.auxiliary_share
    if adversary.name in foreign:
        images = foreign[adversary.name]
        count = max(1, round(share * len(images.auxiliary.labels)))
        return images.auxiliary.first(count), images.validation
    order = generator(seed, f"auxiliary of {adversary.name}").permutation(len(data.parts.auxiliary))
    rows = data.parts.auxiliary[np.sort(order[: max(1, round(share * len(order)))])]
    validation = data.parts.auxiliary_validation
    classes = auxiliary_classes(adversary, data.pool.num_classes, seed)
    if classes is not None:
        rows = rows[np.isin(data.pool.labels[rows], classes)]
        validation = validation[np.isin(data.pool.labels[validation], classes)]
    return _labelled(data, rows), _labelled(data, validation)


def _labelled(data: FederatedData, rows: IntArray) -> LabelledImages:
    return LabelledImages(to_unit(data.pool.images[rows]), data.pool.labels[rows])
