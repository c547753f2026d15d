"""The order of the images: drawn by the seed, a function of what the files hold, not of their rows.

Files are often sorted by class or by person. After this, the first images of any part of the data
are a random draw from it, and rows can move within the files without any effect on a run.
"""

from dataclasses import replace
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from testbed.core.seeds import child
from testbed.data.images import ImagePool, IntArray


def in_drawn_order(pool: ImagePool, seed: int) -> ImagePool:
    """Return the pool with its images in an order drawn by ``seed`` and content.

    The order among the images of the official test set does not depend on the others, nor theirs on
    the test set; and adding images does not change the order among those that were there.
    """
    persons = np.zeros(len(pool), np.int64) if pool.persons is None else pool.persons
    test = np.zeros(len(pool), bool) if pool.official_test is None else pool.official_test
    copies = _number_of_copy(pool, persons, test)
    key = child(seed, "order of the images").to_bytes(8, "big")
    raw = np.stack([pool.content_keys.view(np.int64), copies], axis=1).tobytes()
    drawn = (
        blake2b(raw[start : start + 16], digest_size=8, key=key).digest()
        for start in range(0, len(raw), 16)
    )
    # The rest decides where numbers are equal, as those of one image in training and test are.
    order = np.lexsort((copies, pool.content_keys, test, np.frombuffer(b"".join(drawn), ">u8")))
    return replace(
        pool,
        images=pool.images[order],
        labels=pool.labels[order],
        persons=None if pool.persons is None else persons[order],
        official_test=None if pool.official_test is None else test[order],
        content_keys=pool.content_keys[order],
    )


def _number_of_copy(pool: ImagePool, persons: IntArray, test: NDArray[np.bool_]) -> IntArray:
    """Return the number of each image (N,) among those equal to it, by class, then by person.

    The test set and the rest are numbered apart. Without numbers, copies would be neighbours, and
    the first images would be fewer different ones.
    """
    order = np.lexsort((persons, pool.labels, test, pool.content_keys))
    keys, tested = pool.content_keys[order], test[order]
    starts = np.ones(len(pool), dtype=bool)
    starts[1:] = (keys[1:] != keys[:-1]) | (tested[1:] != tested[:-1])
    places = np.arange(len(pool))
    numbers = np.empty(len(pool), dtype=np.int64)
    numbers[order] = places - np.maximum.accumulate(np.where(starts, places, 0))
    return numbers
