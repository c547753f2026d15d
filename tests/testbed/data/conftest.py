"""Small datasets in Hugging Face parquet layout, written by the tests."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from testbed.data.images import ImagePool
from testbed.data.splits import PART_NAMES, Parts
from testbed.scenario.schema import DataSection

WriteParquet = Callable[..., None]
MakePool = Callable[..., ImagePool]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def random_images(count: int, shape: tuple[int, ...], seed: int) -> list[bytes]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    return [png(image) for image in pixels]


def write(path: Path, columns: dict[str, list[Any]], class_names: list[str] | None = None) -> None:
    """Write one parquet file; columns of bytes become the hub's {bytes, path} structs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {}
    for name, values in columns.items():
        first = next((value for value in values if value is not None), None)
        if isinstance(first, bytes):
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            arrays[name] = pa.array([{"bytes": v, "path": None} for v in values], type=kind)
        else:
            arrays[name] = pa.array(values)
    table = pa.table(arrays)
    if class_names is not None:
        features = {"label": {"names": class_names, "_type": "ClassLabel"}}
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
    pq.write_table(table, path, row_group_size=64)


def check_disjoint(pool: ImagePool, parts: Parts) -> None:
    """No image, content or (auxiliary against the rest) person is in two parts."""
    rows = {name: getattr(parts, name) for name in PART_NAMES}
    together = np.concatenate(list(rows.values()))
    assert len(np.unique(together)) == len(together)
    assert together.min() >= 0
    assert together.max() < len(pool)
    for one in PART_NAMES:
        for other in PART_NAMES:
            if one == other:
                continue
            shared = np.intersect1d(pool.content_keys[rows[one]], pool.content_keys[rows[other]])
            assert len(shared) == 0
            enrolled = pool.labels_are_persons and not {one, other} & {
                "auxiliary",
                "auxiliary_validation",
            }
            if pool.persons is not None and not enrolled:
                assert len(np.intersect1d(pool.persons[rows[one]], pool.persons[rows[other]])) == 0


@pytest.fixture(scope="session")
def assert_disjoint() -> Callable[[ImagePool, Parts], None]:
    return check_disjoint


@pytest.fixture(scope="session")
def write_parquet() -> WriteParquet:
    return write


@pytest.fixture(scope="session")
def encode() -> Callable[..., list[bytes]]:
    return random_images


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real data below TESTBED_DATA_DIR, or synthetic data of the same layout."""
    folder = tmp_path_factory.mktemp("datasets")
    given = os.environ.get("TESTBED_DATA_DIR")
    for name in ("cifar10", "olivetti_faces"):
        if given and (Path(given) / name).is_dir():
            (folder / name).symlink_to(Path(given) / name)
    if not (folder / "cifar10").exists():
        for part, count, seed in (("train", 600, 1), ("test", 150, 2)):
            images = random_images(count, (32, 32, 3), seed)
            if part == "test":
                images[:20] = random_images(20, (32, 32, 3), 1)  # also in the training file
            write(
                folder / "cifar10" / f"{part}-00000-of-00001.parquet",
                {"img": images, "label": [row % 10 for row in range(count)]},
                [f"class {label}" for label in range(10)],
            )
    if not (folder / "olivetti_faces").exists():
        write(
            folder / "olivetti_faces" / "train-00000-of-00001.parquet",
            {
                "image": random_images(400, (64, 64), 3),
                "label": [row // 10 for row in range(400)],
            },
            [f"person_{person:02d}" for person in range(40)],
        )
    images = random_images(300, (16, 16), 4)
    images[1::30] = images[0::30]  # the same image of two persons
    write(
        folder / "people" / "data" / "train.parquet",
        {
            "image": images,
            "label": ["cat" if row % 3 else "dog" for row in range(300)],
            "person": [f"p{row // 10 if row % 30 > 1 else row % 30}" for row in range(300)],
        },
    )
    return folder


@pytest.fixture
def section_of(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DataSection]:
    """Return a data section that loads a small piece of any registered dataset."""
    monkeypatch.setenv("TESTBED_DATA_DIR", str(data_dir))

    def make(name: str, **fields: Any) -> DataSection:
        fields.setdefault("max_images", 1500)
        if name == "parquet_folder":
            fields.setdefault("path", "people")
            fields.setdefault("options", {"person_column": "person"})
        return DataSection(name=name, **fields)

    return make


@pytest.fixture(scope="session")
def make_pool() -> MakePool:
    """Build a pool of tiny images with chosen labels, persons, test flags and content keys."""

    def make(
        labels: np.ndarray,
        persons: np.ndarray | None = None,
        official_test: np.ndarray | None = None,
        content_keys: np.ndarray | None = None,
    ) -> ImagePool:
        count = len(labels)
        rng = np.random.default_rng(count)
        return ImagePool(
            name="made",
            images=rng.integers(0, 256, (count, 1, 16, 16), dtype=np.uint8),
            labels=labels.astype(np.int64),
            label_names=[str(label) for label in range(max(2, int(labels.max()) + 1))],
            persons=None if persons is None else persons.astype(np.int64),
            official_test=official_test,
            content_keys=(
                rng.integers(0, 2**63, count).astype(np.uint64)
                if content_keys is None
                else content_keys.astype(np.uint64)
            ),
            source="made by a test",
        )

    return make
