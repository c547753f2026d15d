"""The data of a run: the image pool, its parts, and their owners."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from testbed.core.registries import DATASETS
from testbed.data.device_rows import DeviceRows, ImagesOfDevices
from testbed.data.images import ImagePool, IntArray
from testbed.data.order import in_drawn_order
from testbed.data.partition import assign_own_victims, assign_victims, partition_training
from testbed.data.splits import Parts, shared_test_images, split
from testbed.scenario.schema import DataSection

FloatArray = NDArray[np.float32]
FEW_NAMES = 5


@dataclass(frozen=True, eq=False)
class FederatedData:
    """Images, their five disjoint parts, and their owners.

    Attributes
    ----------
    pool : all images.
    parts : rows of the pool in each part.
    device_images : rows that each device trains on, one array per device, possibly empty.
    victim_owner : device that owns each victim image, aligned with ``parts.victims``.
    mean, std : float32 (C,) per channel over the training part, of images in [0, 1].
    majority_class_accuracy : accuracy on the victims of the constant answer with the most frequent
        class of the training part.
    notes : how the data were read and split, in sentences that terminal and report show.
    warnings : sentences on the data that terminal and report show.
    """

    pool: ImagePool
    parts: Parts
    device_images: ImagesOfDevices
    victim_owner: IntArray
    mean: FloatArray
    std: FloatArray
    majority_class_accuracy: float
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @cached_property
    def victims_of_own_classes(self) -> float:
        """Return the share of victims whose device holds training images of their class."""
        known = 0
        for device in np.unique(self.victim_owner):
            victims = self.parts.victims[self.victim_owner == device]
            classes = self.pool.labels[self.device_images[int(device)]]
            known += int(np.isin(self.pool.labels[victims], classes).sum())
        return known / len(self.victim_owner)


def load_pool(section: DataSection) -> ImagePool:
    """Load the images of a scenario's ``data`` section, in the order of their files.

    Raises
    ------
    UserError : the dataset is missing, unreachable or unreadable; the message says what to do.
    """
    pool: ImagePool = DATASETS.create(
        section.name,
        section.options,
        path=section.path,
        image_size_px=section.image_size_px,
        max_images=section.max_images,
    )
    return pool


def load_federated_data(
    section: DataSection, num_devices: int, seed: int, share_out: bool = True
) -> FederatedData:
    """Load, split and distribute the data of a scenario.

    Parameters
    ----------
    share_out : whether to distribute the training images; else ``device_images`` is empty.

    Raises
    ------
    UserError : the data cannot be loaded, split or distributed as the scenario asks.
    """
    pool = in_drawn_order(load_pool(section), seed)
    parts = split(pool, section.splits, seed)
    mean, std = channel_statistics(pool.images, parts.training)
    device_images: ImagesOfDevices = DeviceRows([])
    if share_out:
        device_images = partition_training(pool, parts, section, num_devices, seed)
    if share_out and section.serving_images == "own":
        victim_owner = assign_own_victims(pool, parts, device_images, seed)
    else:
        victim_owner = assign_victims(parts, num_devices, seed)
    return FederatedData(
        pool=pool,
        parts=parts,
        device_images=device_images,
        victim_owner=victim_owner,
        mean=mean,
        std=std,
        majority_class_accuracy=majority_class_accuracy(pool, parts),
        notes=(*pool.notes, _split_note(pool)),
        warnings=(
            *pool.warnings,
            *unseen_classes(pool, parts),
            *_doubtful_parts(pool, parts, device_images),
        ),
    )


def to_unit(images: NDArray[np.uint8]) -> FloatArray:
    """Convert uint8 images to float32 in [0, 1]."""
    return images.astype(np.float32) / np.float32(255)


def channel_statistics(images: NDArray[np.uint8], rows: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation (C,) of ``images[rows]`` in [0, 1], per channel.

    Computed from exact grey-level counts, so the result does not depend on summation order. The
    deviation is at least the smallest step, 1/255, so that one can divide by it.
    """
    levels = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[rows, channel].ravel(), minlength=256)
        share = counts / counts.sum()
        mean = float(share @ levels)
        means.append(mean)
        deviations.append(max(float(share @ (levels - mean) ** 2) ** 0.5, 1 / 255))
    return np.array(means, dtype=np.float32), np.array(deviations, dtype=np.float32)


def majority_class_accuracy(pool: ImagePool, parts: Parts) -> float:
    """Return the share of victims of the class that is most frequent in the training part."""
    majority = np.bincount(pool.labels[parts.training]).argmax()
    return float(np.mean(pool.labels[parts.victims] == majority))


def _few(names: list[str]) -> str:
    return ", ".join(names[:FEW_NAMES]) + (", ..." if len(names) > FEW_NAMES else "")


def _split_note(pool: ImagePool) -> str:
    if pool.labels_are_persons:
        return (
            f"{pool.split_words}, who are the classes: attackers' images show other persons than "
            "training images and victims"
        )
    apart = "" if pool.persons is None else ": no person is in two parts"
    return f"{pool.split_words}{apart}"


def _doubtful_parts(pool: ImagePool, parts: Parts, device_images: ImagesOfDevices) -> Iterator[str]:
    """Yield warnings of undecided persons, of one class, and of images that are left out."""
    if pool.person_candidate is not None:
        yield (
            f"column '{pool.person_candidate}' may name persons, but the split is not by person: "
            "one person can be in training, among the victims and in an attacker's images; set "
            f"data.options.person_column to {pool.person_candidate} to split by person, or to false"
        )
    trained = np.unique(pool.labels[parts.training])
    if len(trained) == 1:
        yield f"the training part has one class only ({pool.label_names[trained[0]]})"
    if device_images:
        held = device_images.classes(pool.labels)
        absent = [pool.label_names[code] for code in np.setdiff1d(trained, held)]
        if absent:
            yield (
                f"no device has training images of {len(absent)} of {len(trained)} classes "
                f"({_few(absent)}): the fleet cannot learn them; data.partitioner leaves them out, "
                "or data.images_per_device is small"
            )
    if pool.official_test is not None and (shared := shared_test_images(pool, parts)):
        whose = "picture" if pool.persons is None else "picture or person"
        yield (
            f"{shared:,} of {np.count_nonzero(pool.official_test):,} images of the official test "
            f"set are no victims: the same {whose} is in another part"
        )


def unseen_classes(pool: ImagePool, parts: Parts) -> Iterator[str]:
    """Yield a warning of victims whose classes are not in the training part."""
    unseen = ~np.isin(pool.labels[parts.victims], pool.labels[parts.training])
    if not unseen.any():
        return
    names = [pool.label_names[code] for code in np.unique(pool.labels[parts.victims][unseen])]
    cause = "there are few images of them"
    if pool.persons is not None and not pool.labels_are_persons:
        cause = f"the images are {pool.split_words}"
    elif pool.official_test is not None:
        cause = "the official test set has classes that the training files lack"
    whose = "class is" if len(names) == 1 else "classes are"
    yield (
        f"no model can be right on {unseen.sum():,} of {len(unseen):,} victims: their "
        f"{whose} not in the training part ({_few(names)}); "
        f"probably because {cause}"
    )
