"""The order of the rows in the files decides nothing."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testbed.data.federated import FederatedData, load_federated_data, load_pool
from testbed.data.images import ImagePool
from testbed.data.order import in_drawn_order
from testbed.data.splits import PART_NAMES
from testbed.scenario.schema import DataSection

CLASSES = 3
COUNT = 80
SHARES = {
    "training": 0.25,
    "validation": 0.15,
    "auxiliary": 0.2,
    "auxiliary_validation": 0.15,
    "victims": 0.25,
}


def test_the_first_images_of_a_sorted_data_set_are_a_random_draw(make_pool):
    pool = make_pool(np.repeat(np.arange(10), 100))
    drawn = [np.bincount(in_drawn_order(pool, seed).labels[:200]) for seed in range(30)]
    assert np.bincount(pool.labels[:200]).tolist() == [100, 100]
    # Drawing without replacement: 20 of each class, with a variance of 20 x 0.9 x 0.8.
    assert np.mean(drawn, axis=0) == pytest.approx(20.0, abs=4 * (14.4 / 30) ** 0.5)
    assert np.var(drawn) == pytest.approx(14.4, rel=0.25)


def test_other_seeds_draw_other_orders(make_pool):
    pool = make_pool(np.arange(200) % 2)
    orders = [in_drawn_order(pool, seed).content_keys.tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(pool.content_keys.tolist())


def test_further_images_and_the_test_set_do_not_change_the_order_of_the_others(make_pool):
    keys = np.repeat(np.arange(60, dtype=np.uint64), 2)
    test = np.arange(120) % 2 == 1  # every image is in both files
    both = in_drawn_order(make_pool(np.arange(120) % 3, official_test=test, content_keys=keys), 4)
    alone = in_drawn_order(make_pool(np.arange(60) % 3, content_keys=np.arange(60)), 4)
    fewer = in_drawn_order(make_pool(np.arange(40) % 3, content_keys=np.arange(40)), 4)
    for part in (both.content_keys[both.official_test], both.content_keys[~both.official_test]):
        assert np.array_equal(part, alone.content_keys)
    assert np.array_equal(alone.content_keys[alone.content_keys < 40], fewer.content_keys)


def test_copies_are_no_neighbours(make_pool):
    """Each image is there ten times: 30 first images show about 27 different ones of 100."""
    pool = make_pool(np.zeros(1000), content_keys=np.arange(1000) // 10)
    found = [len(set(in_drawn_order(pool, seed).content_keys[:30].tolist())) for seed in range(20)]
    assert np.mean(found) == pytest.approx(26.1, abs=1.5)


@st.composite
def pools(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Draw a small pool with copies that have other classes or persons, and an order of it."""
    count = draw(st.integers(2, 30))

    def column(largest: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(0, largest), min_size=count, max_size=count)))

    columns = {"labels": column(2), "content_keys": column(8)}
    if draw(st.booleans()):
        columns["persons"] = column(2)
    if draw(st.booleans()):
        columns["official_test"] = column(1).astype(bool)
    return columns, np.array(draw(st.permutations(range(count))))


@given(pools(), st.integers(0, 3))
def test_a_pool_in_another_order_is_the_same_once_it_is_drawn(drawn, seed):
    columns, other = drawn
    patterns = np.random.default_rng(0).integers(0, 256, (9, 1, 16, 16), dtype=np.uint8)

    def ordered(rows: np.ndarray) -> ImagePool:
        parts = {"persons": None, "official_test": None} | {
            name: values[rows] for name, values in columns.items()
        }
        pool = ImagePool(
            name="made",
            images=patterns[parts["content_keys"]],
            label_names=["a", "b", "c"],
            source="",
            **{**parts, "content_keys": parts["content_keys"].astype(np.uint64)},
        )
        return in_drawn_order(pool, seed)

    one, same = ordered(np.arange(len(other))), ordered(other)
    for field in fields(ImagePool):
        np.testing.assert_equal(getattr(same, field.name), getattr(one, field.name))


def everything(data: FederatedData) -> dict[str, Any]:
    """Return all that a run takes from its data."""
    taken: dict[str, Any] = {name: getattr(data.parts, name) for name in PART_NAMES}
    taken |= {field.name: getattr(data.pool, field.name) for field in fields(ImagePool)}
    taken |= {field.name: getattr(data, field.name) for field in fields(FederatedData)[2:]}
    return taken | {"device_images": [rows.tolist() for rows in data.device_images]}


@pytest.fixture(scope="module")
def rows(encode: Callable[..., list[bytes]]) -> dict[str, list[Any]]:
    """Return the columns of a file sorted by class, with copies and rows without a class."""
    images = encode(COUNT, (16, 16), 9)
    labels: list[int] = sorted(row % CLASSES for row in range(COUNT))
    images[10:14] = [images[9]] * 4  # of the same class, and of other persons
    images[30:32] = [images[9]] * 2  # of another class
    labels[20:22] = [-1, -1]
    return {"image": images, "label": labels, "person": [f"p{row // 6}" for row in range(COUNT)]}


@pytest.mark.parametrize("options", [{}, {"person_column": "person"}])
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None
)
@given(
    st.permutations(range(COUNT)),
    st.lists(st.integers(1, 9), max_size=2, unique=True),  # tenths of the rows
    st.none() | st.integers(50, 78),
    st.booleans(),
)
def test_rows_may_move_within_and_between_the_files_of_a_split(
    options, write_parquet, tmp_path_factory, rows, order, cuts, max_images, tested
):
    def load(order: Any, cuts: Any) -> dict[str, Any]:
        """Write the rows in this order to several files, and read them."""
        folder: Path = tmp_path_factory.mktemp("rows")
        parts = {"train": list(order)}
        if tested:  # of other persons
            parts["test"] = [row for row in order if row // 6 % 3 == 2]
            parts["train"] = [row for row in order if row // 6 % 3 != 2]
        for split, members in parts.items():
            ends = [0, *(cut * len(members) // 10 for cut in sorted(cuts)), len(members)]
            for number in range(len(ends) - 1):
                part = members[ends[number] : ends[number + 1]]
                columns = {name: [values[row] for row in part] for name, values in rows.items()}
                write_parquet(folder / f"{split}-{number:05d}-of-00009.parquet", columns)
        section = DataSection(
            name="parquet_folder",
            path=str(folder),
            options=options | {"label_column": "label"},
            max_images=max_images,
            splits=SHARES,
        )
        found = everything(load_federated_data(section, 4, 7))
        return {name: value for name, value in found.items() if name != "source"}

    np.testing.assert_equal(load(order, cuts), load(range(COUNT), [4, 7][: len(cuts)]))


def test_built_in_data_sets_are_not_in_the_order_of_their_files(section_of):
    section = section_of("olivetti_faces", max_images=None)
    assert np.all(np.diff(load_pool(section).labels) >= 0)
    data = load_federated_data(section, 4, 0)
    for rows in (data.parts.training, data.parts.auxiliary):
        first = data.pool.labels[rows][: len(rows) // 2]
        assert len(np.unique(first)) == len(np.unique(data.pool.labels[rows]))
