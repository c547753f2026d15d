"""Loads the dataset that a scenario names."""

from testbed.core.registries import DATASETS
from testbed.data.images import ImagePool
from testbed.scenario.schema import DataSection


def load_pool(section: DataSection) -> ImagePool:
    """Load the images of a scenario's ``data`` section.

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
