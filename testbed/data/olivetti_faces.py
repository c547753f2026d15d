"""Olivetti faces (AT&T Laboratories Cambridge, 1994): 40 people, 10 grey images each, 64x64."""

import hashlib
import io
import urllib.request

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from testbed.core.errors import UserError
from testbed.core.registries import DATASETS
from testbed.core.registry import NoOptions
from testbed.data.decoding import picture_key, to_channels_first
from testbed.data.encoded import Columns, pool_from_tables
from testbed.data.images import ImagePool, keep_by_content
from testbed.data.tables import find_folder, folder_tables, where_looked

# The archive of scikit-learn's fetch_olivetti_faces. It is read directly, because scikit-learn
# caches it as a pickle.
ARCHIVE_URL = "https://ndownloader.figshare.com/files/5976027"
ARCHIVE_SHA256 = "b612fb967f2dc77c9c62d3e1266e0c73d5fca46a4b8906c18e454d41af987794"
TIMEOUT_S = 10
SIDE_PX = 64
IMAGES_PER_PERSON = 10


@DATASETS.register(
    "olivetti_faces", "400 grey faces 64x64 of 40 people; the class is the person (local or web)"
)
def load_olivetti_faces(
    options: NoOptions, *, path: str | None, image_size_px: int | None, max_images: int | None
) -> ImagePool:
    """Load the faces; the task is to name the person, so ``persons`` equals ``labels``.

    ``testbed.data.splits`` describes how such a task is split by person.

    Raises
    ------
    UserError : no local folder and no network, or files that cannot be read.
    """
    folder = find_folder("olivetti_faces", path)
    if folder is not None:
        return pool_from_tables(
            "olivetti_faces",
            folder_tables(folder),
            Columns(image="image", label="label", person="label"),
            source=f"folder {folder.name}",
            image_size_px=image_size_px,
            max_images=max_images,
        )
    faces = _download_faces()
    keys = np.array([picture_key(Image.fromarray(face)) for face in faces], dtype=np.uint64)
    kept = keep_by_content(keys, max_images)
    persons = (np.arange(len(faces), dtype=np.int64) // IMAGES_PER_PERSON)[kept]
    return ImagePool(
        name="olivetti_faces",
        images=np.stack(
            [to_channels_first(Image.fromarray(faces[row]), image_size_px) for row in kept]
        ),
        labels=persons,
        label_names=[str(person) for person in range(len(faces) // IMAGES_PER_PERSON)],
        persons=persons,
        official_test=None,
        content_keys=keys[kept],
        source=ARCHIVE_URL,
    )


def _download_faces() -> NDArray[np.uint8]:
    """Return the faces (400, 64, 64), ordered by person, from the public archive."""
    from scipy.io import loadmat  # slow to import

    try:
        with urllib.request.urlopen(ARCHIVE_URL, timeout=TIMEOUT_S) as reply:
            archive = reply.read()
    except OSError as error:
        raise UserError(
            f"data: {ARCHIVE_URL} could not be downloaded ({error}) and there is "
            f"{where_looked('olivetti_faces')}"
        ) from None
    if hashlib.sha256(archive).hexdigest() != ARCHIVE_SHA256:
        raise UserError(f"data: {ARCHIVE_URL} is not the expected archive (SHA-256 differs)")
    columns = loadmat(io.BytesIO(archive))["faces"]  # (4096, 400), each column-major
    faces = columns.T.reshape(-1, SIDE_PX, SIDE_PX).transpose(0, 2, 1)
    return np.ascontiguousarray(faces, dtype=np.uint8)
