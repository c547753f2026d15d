"""CIFAR-10 (Krizhevsky, 2009): 60,000 colour images of 10 classes, 32x32."""

from testbed.core.registries import DATASETS
from testbed.core.registry import NoOptions
from testbed.data.encoded import Columns, pool_from_tables
from testbed.data.hub import hub_tables
from testbed.data.images import ImagePool
from testbed.data.tables import find_folder, folder_tables, where_looked

HUB_NAME = "uoft-cs/cifar10"


@DATASETS.register("cifar10", "CIFAR-10, 60,000 RGB images 32x32, from a local folder or the hub")
def load_cifar10(
    options: NoOptions, *, path: str | None, image_size_px: int | None, max_images: int | None
) -> ImagePool:
    """Load CIFAR-10 with its official test file (columns ``img`` and ``label``).

    Raises
    ------
    UserError : no local folder and no hub, or files that cannot be read.
    """
    folder = find_folder("cifar10", path)
    tables = folder_tables(folder) if folder else hub_tables(HUB_NAME, where_looked("cifar10"))
    return pool_from_tables(
        "cifar10",
        tables,
        Columns(image="img", label="label"),
        source=f"folder {folder.name}" if folder else f"hub {HUB_NAME}",
        image_size_px=image_size_px,
        max_images=max_images,
    )
