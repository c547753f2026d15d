"""scikit-learn's embedded handwritten digits: no file, no network."""

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from testbed.core.registries import DATASETS
from testbed.core.registry import NoOptions
from testbed.data.images import ImagePool, content_key, keep_by_content

DEFAULT_SIZE_PX = 32
GREY_LEVELS = 16  # pixels are 0 to 16


@DATASETS.register("digits", "1,797 handwritten digits embedded in scikit-learn, 8x8 grey at 32x32")
def load_digits(
    options: NoOptions, *, path: str | None, image_size_px: int | None, max_images: int | None
) -> ImagePool:
    """Load the digits, interpolated (bicubic) from 8x8 to ``image_size_px`` (32 by default).

    They are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak,
    1998, UCI). Its writers are not recorded, so the split cannot be by person; ``path`` is unused.
    """
    table = np.loadtxt(_file(), delimiter=",")
    pixels = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / GREY_LEVELS)).astype(np.uint8)
    keys = np.array([content_key(image.tobytes()) for image in pixels], dtype=np.uint64)
    kept = keep_by_content(keys, max_images)
    size = image_size_px or DEFAULT_SIZE_PX
    images = np.empty((len(kept), 1, size, size), dtype=np.uint8)
    for position, row in enumerate(kept):
        digit = Image.fromarray(pixels[row]).resize((size, size), Image.Resampling.BICUBIC)
        images[position, 0] = np.asarray(digit)
    return ImagePool(
        name="digits",
        images=images,
        labels=table[kept, -1].astype(np.int64),
        label_names=[str(digit) for digit in range(10)],
        persons=None,
        official_test=None,
        content_keys=keys[kept],
        source="scikit-learn, sklearn.datasets.load_digits",
    )


def _file() -> Path:
    """Return the file in the installed package: to import scikit-learn takes a second."""
    found = importlib.util.find_spec("sklearn")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
