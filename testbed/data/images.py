"""The image pool of a run, and the content key that identifies an image."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.core.errors import UserError

SIDE_MULTIPLE_PX = 16

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
KeyArray = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class ImagePool:
    """All images of a dataset, decoded; the arrays are read-only.

    Attributes
    ----------
    name : the dataset's registered name.
    images : uint8 (N, C, H, W).
    labels : class of each image, int64 (N,).
    label_names : names of all classes, including those without an image.
    persons : the person in each image, int64 (N,), or None where the data has no persons.
    official_test : True for images of the dataset's test file, (N,), or None without one.
    content_keys : uint64 (N,), of the pixels; identical pictures share a key, however encoded.
    source : origin of the images, for the report.
    person_column : the column that names the persons; None where no column does.
    person_candidate : a column that may name persons, where the scenario does not say if it does.
    notes : how the files were read, in sentences for terminal and report.
    warnings : sentences on what was left out or may surprise, for terminal and report.

    Raises
    ------
    UserError : fewer than two classes, or sides that cannot be halved four times.
    """

    name: str
    images: NDArray[np.uint8]
    labels: IntArray
    label_names: list[str]
    persons: IntArray | None
    official_test: BoolArray | None
    content_keys: KeyArray
    source: str
    person_column: str | None = None
    person_candidate: str | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        height, width = self.images.shape[2:]
        if height % SIDE_MULTIPLE_PX or width % SIDE_MULTIPLE_PX:
            raise UserError(
                f"data.image_size_px: images of {self.name} are {width}x{height} pixels and sides "
                f"must be multiples of {SIDE_MULTIPLE_PX}; set image_size_px, for instance to 32"
            )
        if len(self.label_names) < 2:
            raise UserError(f"data.name={self.name}: fewer than two classes ({self.source})")
        for array in (self.images, self.labels, self.persons, self.official_test):
            if array is not None:
                array.setflags(write=False)
        self.content_keys.setflags(write=False)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """Number of classes of the task."""
        return len(self.label_names)

    @property
    def split_words(self) -> str:
        """Say whether the images are split by person, and by which."""
        if self.persons is None:
            return "not split by person"
        column = f"column '{self.person_column}', " if self.person_column else ""
        return f"split by person ({column}{len(np.unique(self.persons))} persons)"

    @property
    def labels_are_persons(self) -> bool:
        """Whether the classes are the persons, so that no person can be held out of training."""
        if self.persons is None:
            return False
        pairs = len(np.unique(np.stack([self.labels, self.persons]), axis=1).T)
        return pairs == len(np.unique(self.labels)) == len(np.unique(self.persons))


def content_key(content: bytes) -> int:
    """Return the first 64 bits of SHA-256 of an image's raw pixels (or encoded bytes)."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def keep_by_content(
    content_keys: KeyArray, max_images: int | None, *ties: NDArray[np.generic]
) -> IntArray:
    """Return the rows (N',), ascending, of the ``max_images`` smallest content keys.

    The choice depends on the images' content, not on their order or the seed. Choices are nested: a
    smaller ``max_images`` keeps a subset of those that a larger one keeps.

    Parameters
    ----------
    ties : what tells rows (N,) with the same key apart, such as their classes.
    """
    order = np.lexsort((*ties, content_keys))[:max_images]
    return np.sort(order).astype(np.int64)
