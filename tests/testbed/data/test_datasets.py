"""The contract of every registered dataset, and properties of single datasets."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from testbed.core.registries import DATASETS
from testbed.data.federated import load_pool
from testbed.data.splits import PART_NAMES, split
from testbed.scenario.schema import DataSection

NAMES = DATASETS.names()


@pytest.mark.parametrize("name", NAMES)
def test_pool_keeps_its_contract(name, section_of):
    pool = load_pool(section_of(name))
    count = len(pool)
    assert pool.name == name
    assert pool.images.dtype == np.uint8
    assert pool.images.shape == (count, *pool.image_shape)
    assert pool.image_shape[0] in (1, 3)
    assert not pool.images.flags.writeable
    assert pool.labels.dtype == np.int64
    assert pool.labels.min() >= 0
    assert pool.labels.max() < pool.num_classes
    assert pool.content_keys.dtype == np.uint64
    assert pool.source
    for extra in (pool.persons, pool.official_test):
        assert extra is None or len(extra) == count


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_disjoint_and_filled(name, section_of, assert_disjoint):
    section = section_of(name)
    pool = load_pool(section)
    for seed in range(3):
        parts = split(pool, section.splits, seed)
        assert_disjoint(pool, parts)
        assert min(parts.sizes().values()) > 0


@pytest.mark.parametrize("name", NAMES)
def test_loading_is_deterministic_and_smaller_is_nested(name, section_of):
    large, again, small = (load_pool(section_of(name, max_images=n)) for n in (250, 250, 120))
    assert np.array_equal(large.images, again.images)
    assert np.array_equal(large.labels, again.labels)
    assert len(small) == 120
    position = {int(key): row for row, key in enumerate(large.content_keys)}
    for row, key in enumerate(small.content_keys):
        assert np.array_equal(small.images[row], large.images[position[int(key)]])
    assert small.label_names == large.label_names


@pytest.mark.parametrize("name", NAMES)
def test_images_are_resized_on_request(name, section_of):
    pool = load_pool(section_of(name, image_size_px=48, max_images=60))
    assert pool.image_shape[1:] == (48, 48)


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    pool = load_pool(DataSection())
    digits = load_digits()
    assert pool.image_shape == (1, 32, 32)
    assert np.array_equal(pool.labels, digits.target)
    shrunk = pool.images.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4))
    for image, original in zip(shrunk, digits.images, strict=True):
        assert np.corrcoef(image.ravel(), original.ravel())[0, 1] > 0.97
    assert pool.images.max() == 255


def test_official_test_file_is_respected(section_of):
    section = section_of("cifar10")
    pool = load_pool(section)
    parts = split(pool, section.splits, 0)
    assert pool.official_test is not None
    assert pool.official_test[parts.victims].all()
    for name in PART_NAMES[:-1]:
        assert not pool.official_test[getattr(parts, name)].any()


def test_cifar10_reads_what_pillow_reads(section_of, data_dir):
    import pyarrow.parquet as pq

    pool = load_pool(section_of("cifar10", max_images=50))
    file = sorted((data_dir / "cifar10").glob("train*.parquet"))[0]
    cells = pq.read_table(file).to_pylist()
    found = 0
    for cell in cells:
        pixels = np.asarray(Image.open(io.BytesIO(cell["img"]["bytes"])))
        key = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "big")
        for row in np.flatnonzero(pool.content_keys == np.uint64(key)):
            if pool.official_test is not None and pool.official_test[row]:
                continue
            assert np.array_equal(pool.images[row].transpose(1, 2, 0), pixels)
            assert pool.labels[row] == cell["label"]
            found += 1
    assert found > 20


def test_auxiliary_persons_of_faces_are_in_no_other_part(section_of):
    section = section_of("olivetti_faces")
    pool = load_pool(section)
    assert pool.labels_are_persons
    parts = split(pool, section.splits, 0)
    enrolled = set(pool.persons[parts.training])
    assert set(pool.persons[parts.victims]) <= enrolled
    assert not enrolled & set(pool.persons[parts.auxiliary])


def test_columns_of_a_parquet_folder_are_found(section_of):
    pool = load_pool(section_of("parquet_folder"))
    assert pool.label_names == ["cat", "dog"]
    assert pool.persons is not None
    assert not pool.labels_are_persons


def test_path_may_be_the_folder_or_its_parent(section_of, data_dir, monkeypatch):
    monkeypatch.delenv("TESTBED_DATA_DIR")
    pools = [
        load_pool(section_of("cifar10", path=str(path), max_images=50))
        for path in (data_dir, data_dir / "cifar10")
    ]
    assert np.array_equal(pools[0].images, pools[1].images)
