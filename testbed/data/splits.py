"""Splits a pool into the five disjoint parts of a fair privacy evaluation.

A salted SHA-256 of the image's content key, or of its person, decides the part; the order of rows
does not. The salt contains the scenario's seed: other seeds give other splits, and one seed assigns
an image to the same part, independently of the other images in the pool.

- Identical images are in the same part.
- Persons: where the data has persons, each person is in one part only. The exception is a task
  whose classes *are* the persons (``ImagePool.labels_are_persons``, for instance face
  recognition), because a person who was not enrolled cannot be recognised. In such a task the two
  auxiliary parts of the attacker contain persons of their own, while training, validation and
  victims share the enrolled persons, with disjoint images.
- Official test file: all victims come from it, all other parts from the other files. The victims'
  share refers to all images and is capped by the size of the test file; the four other shares are
  renormalised. A victim whose image (or person, as above) also appears in another part is
  dropped.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.core.errors import UserError
from testbed.data.images import ImagePool, IntArray
from testbed.scenario.schema import Splits

PART_NAMES = ("training", "validation", "auxiliary", "auxiliary_validation", "victims")
TRAINING, VALIDATION, AUXILIARY, AUXILIARY_VALIDATION, VICTIMS = range(5)
ENROLLED = [TRAINING, VALIDATION, VICTIMS]
UNUSED = -1

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Parts:
    """Rows of the pool in each part: int64 arrays, ascending, disjoint.

    Attributes
    ----------
    training : images on the devices.
    validation : images for choosing rounds and reporting curves.
    auxiliary, auxiliary_validation : the attacker's images.
    victims : images whose features are intercepted; no model is trained on them.
    """

    training: IntArray
    validation: IntArray
    auxiliary: IntArray
    auxiliary_validation: IntArray
    victims: IntArray

    def sizes(self) -> dict[str, int]:
        """Return the number of images of each part, by name."""
        return {name: len(getattr(self, name)) for name in PART_NAMES}


def split(pool: ImagePool, shares: Splits, seed: int) -> Parts:
    """Split the pool; a function of its images, the shares and the seed.

    Raises
    ------
    UserError : a part would be empty.
    """
    assigned = _first_come(_assign(pool, shares, seed), pool)
    parts = Parts(*(np.flatnonzero(assigned == part) for part in range(len(PART_NAMES))))
    for name, size in parts.sizes().items():
        if size == 0:
            different = len(np.unique(pool.content_keys))
            copies = "" if different == len(pool) else f", {different} of them different"
            raise UserError(
                f"data.splits.{name}: this part of {pool.name} is empty ({len(pool)} images in "
                f"all{copies}, {pool.split_words}); {_remedy(pool, name)}"
            )
    return parts


def _remedy(pool: ImagePool, empty: str) -> str:
    """Say what can be done about an empty part."""
    if empty == "victims" and pool.official_test is not None:
        return (
            "its images or persons are also in the training files; split by hand, or set "
            "data.options.test_split to null"
        )
    wanted = "data.max_images" if pool.persons is None else "use more persons"
    return f"raise its share, or {wanted}, or use another seed"


def shared_test_images(pool: ImagePool, parts: Parts) -> int:
    """Return how many images of the official test set may not be victims (see ``_first_come``)."""
    if pool.official_test is None:
        return 0
    attackers = np.concatenate([parts.auxiliary, parts.auxiliary_validation])
    others = np.concatenate([parts.training, parts.validation, attackers])
    shared = np.isin(pool.content_keys, pool.content_keys[others])
    if pool.persons is not None:
        apart = attackers if pool.labels_are_persons else others
        shared |= np.isin(pool.persons, pool.persons[apart])
    return int(np.count_nonzero(shared & pool.official_test))


def _assign(pool: ImagePool, shares: Splits, seed: int) -> IntArray:
    """Assign a part to every row (N,), ``UNUSED`` for spare rows of the official test file."""
    weights = np.array([getattr(shares, name) for name in PART_NAMES])
    by_image = _uniform(pool.content_keys, "image", seed)
    if pool.official_test is None:
        return _assign_by_group(pool, by_image, weights, seed)
    victims_share = weights[VICTIMS] * len(pool) / np.count_nonzero(pool.official_test)
    weights[VICTIMS] = 0.0
    elsewhere = _assign_by_group(pool, by_image, weights, seed)
    test = np.where(by_image < victims_share, VICTIMS, UNUSED)
    return np.where(pool.official_test, test, elsewhere)


def _assign_by_group(
    pool: ImagePool, by_image: FloatArray, weights: FloatArray, seed: int
) -> IntArray:
    """Assign parts by image, by person, or (persons are the classes) by both."""
    if pool.persons is None:
        return _cut(by_image, weights)
    by_person = _evenly(_uniform(pool.persons.astype(np.uint64), "person", seed))
    if not pool.labels_are_persons:
        return _cut(by_person, weights)
    person_weights = np.zeros(len(PART_NAMES))
    person_weights[[TRAINING, AUXILIARY, AUXILIARY_VALIDATION]] = (
        weights[ENROLLED].sum(),
        weights[AUXILIARY],
        weights[AUXILIARY_VALIDATION],
    )
    by_persons = _cut(by_person, person_weights)
    enrolled_weights = np.zeros(len(PART_NAMES))
    enrolled_weights[ENROLLED] = weights[ENROLLED]
    return np.where(by_persons == TRAINING, _cut(by_image, enrolled_weights), by_persons)


def _uniform(keys: NDArray[np.uint64], purpose: str, seed: int) -> FloatArray:
    """Map keys (N,) to [0, 1) by a salted SHA-256; equal keys map to equal numbers."""
    salt = f"siftfunnel split|{purpose}|{seed}|".encode()
    unique, inverse = np.unique(keys, return_inverse=True)
    digests = b"".join(hashlib.sha256(salt + key.tobytes()).digest()[:8] for key in unique)
    numbers = np.frombuffer(digests, dtype=">u8").astype(np.uint64) >> np.uint64(11)
    return (numbers / 2.0**53)[inverse]


def _evenly(uniform: FloatArray) -> FloatArray:
    """Replace each number by its rank, scaled to (0, 1).

    There are few persons, so that small parts would often be empty by chance.
    """
    unique, inverse = np.unique(uniform, return_inverse=True)
    return ((np.arange(len(unique)) + 0.5) / len(unique))[inverse]


def _cut(uniform: FloatArray, weights: FloatArray) -> IntArray:
    """Cut [0, 1) into intervals proportional to ``weights``; return each number's interval."""
    edges = np.cumsum(weights) / weights.sum()
    edges[np.flatnonzero(weights)[-1] :] = np.inf
    return np.searchsorted(edges, uniform, side="right").astype(np.int64)


def _first_come(assigned: IntArray, pool: ImagePool) -> IntArray:
    """Drop rows whose image or person is already in a part that may not share it."""
    apart = np.arange(len(PART_NAMES))  # all parts are separate, victims come last
    assigned = _drop_shared(assigned, pool.content_keys, apart)
    if pool.persons is None:
        return assigned
    if pool.labels_are_persons:
        apart[[AUXILIARY, AUXILIARY_VALIDATION]] = 0, 1
        apart[ENROLLED] = 2  # enrolled persons are shared by these parts
    return _drop_shared(assigned, pool.persons, apart)


def _drop_shared(
    assigned: IntArray, keys: NDArray[np.uint64] | IntArray, precedence: IntArray
) -> IntArray:
    """Give every key to the part of lowest precedence number; rows elsewhere become ``UNUSED``."""
    unique, inverse = np.unique(keys, return_inverse=True)
    rank = np.where(assigned == UNUSED, len(PART_NAMES), precedence[assigned])
    owner = np.full(len(unique), len(PART_NAMES))
    np.minimum.at(owner, inverse, rank)
    return np.where(rank == owner[inverse], assigned, UNUSED)
