"""The contract of every registered partitioner, and the owners of victims."""

import pickle
import subprocess
import sys

import datasets
import flwr_datasets.partitioner
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testbed.core.errors import UserError
from testbed.core.registries import PARTITIONERS
from testbed.core.seeds import generator
from testbed.data.device_rows import DeviceRows, DrawnRows
from testbed.data.partition import assign_own_victims, assign_victims, partition_training
from testbed.data.splits import Parts, split
from testbed.scenario.schema import DataSection

NAMES = PARTITIONERS.names()
DROPS_A_REMAINDER = {"shard"}


@pytest.fixture(scope="module")
def pool(make_pool):
    """900 images of 5 classes and 30 persons."""
    rng = np.random.default_rng(5)
    return make_pool(rng.integers(0, 5, 900), rng.integers(0, 30, 900))


@pytest.fixture(scope="module")
def parts(pool):
    return split(pool, DataSection().splits, 0)


def share(pool, parts, name, num_devices, seed=0, images_per_device=None, **options):
    section = DataSection(
        partitioner={"name": name, **options}, images_per_device=images_per_device
    )
    return partition_training(pool, parts, section, num_devices, seed)


@pytest.mark.parametrize("name", NAMES)
def test_devices_hold_disjoint_training_images(name, pool, parts):
    devices = share(pool, parts, name, 5)
    rows = np.concatenate(devices)
    assert len(devices) == 5
    assert all(np.array_equal(device, np.sort(device)) for device in devices)
    assert len(np.unique(rows)) == len(rows)
    assert np.isin(rows, parts.training).all()
    left_out = len(parts.training) - len(rows)
    assert left_out == 0 or (name in DROPS_A_REMAINDER and left_out < 2 * 5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("images_per_device", [None, 30])
def test_partitions_depend_on_the_seed_only(name, images_per_device, pool, parts):
    def devices(seed):
        return share(pool, parts, name, 5, seed, images_per_device)

    assert all(map(np.array_equal, devices(1), devices(1)))
    assert not all(map(np.array_equal, devices(1), devices(2)))


@pytest.mark.parametrize("name", NAMES)
def test_fleets_may_be_larger_than_the_data(name, pool, parts):
    devices = share(pool, parts, name, 2000, images_per_device=80)
    assert [len(device) for device in devices] == [80] * 2000
    assert np.isin(np.concatenate(devices), parts.training).all()
    assert not np.array_equal(devices[0], devices[1])


def test_drawing_keeps_the_class_skew(pool, parts):
    options = {"num_classes_per_partition": 2}
    devices = share(pool, parts, "pathological", 300, images_per_device=40, **options)
    assert all(len(np.unique(pool.labels[device])) <= 2 for device in devices)
    assert len(np.unique(pool.labels[np.concatenate(devices)])) == 5


def test_pathological_devices_have_few_classes(pool, parts):
    devices = share(pool, parts, "pathological", 20, num_classes_per_partition=1)
    assert all(len(np.unique(pool.labels[device])) == 1 for device in devices)


def test_smaller_alpha_is_more_skewed(pool, parts):
    def skew(alpha):
        devices = share(pool, parts, "dirichlet", 10, alpha=alpha)
        counts = [np.bincount(pool.labels[device], minlength=5) for device in devices]
        return np.mean([count.max() / count.sum() for count in counts if count.sum()])

    assert skew(0.1) > skew(1.0) > skew(100.0)


def test_dirichlet_serves_100_devices_with_few_images(pool, parts):
    devices = share(pool, parts, "dirichlet", 100, alpha=0.1)
    assert sum(map(len, devices)) == len(parts.training)


OF_THE_LIBRARY = [
    ("iid", "IidPartitioner", {}),
    *(
        ("dirichlet", "DirichletPartitioner", {"alpha": alpha, **more})
        for alpha in (0.05, 1.0, 100.0)
        for more in ({}, {"self_balancing": True}, {"min_partition_size": 3})
    ),
]


@pytest.mark.parametrize(("name", "library_class", "options"), OF_THE_LIBRARY)
@pytest.mark.parametrize("count", [1, 7, 40])
def test_own_partitioners_make_the_parts_of_flwr_datasets(name, library_class, options, count):
    columns = {"label": np.random.default_rng(count).integers(0, 6, 800)}
    for seed in range(3):
        more = {"min_partition_size": 0, **options, "partition_by": "label", "seed": seed}
        theirs = getattr(flwr_datasets.partitioner, library_class)(
            num_partitions=count, **(more if options else {})
        )
        theirs.dataset = datasets.Dataset.from_dict({**columns, "row": range(800)})
        build = PARTITIONERS.entry(name).factory
        chosen = PARTITIONERS.options(name, options)
        own = build(chosen, num_partitions=count, num_classes=6, seed=seed)
        try:
            expected = [theirs.load_partition(index)["row"] for index in range(count)]
        except ValueError:
            with pytest.raises(ValueError, match="min_partition_size"):
                own(columns)
            continue
        assert [part.tolist() for part in own(columns)] == [list(part) for part in expected]


def test_natural_ids_keep_persons_together(pool, parts):
    few = share(pool, parts, "natural_id", 4)
    owners = {person: d for d, rows in enumerate(few) for person in pool.persons[rows]}
    assert all(owners[person] == d for d, rows in enumerate(few) for person in pool.persons[rows])
    many = share(pool, parts, "natural_id", 50)
    persons = len(np.unique(pool.persons[parts.training]))
    assert sum(len(rows) > 0 for rows in many) == persons


def test_natural_ids_need_persons(make_pool):
    without_persons = make_pool(np.arange(300) % 5)
    with pytest.raises(UserError, match="natural_id needs persons, made has none"):
        share(without_persons, split(without_persons, DataSection().splits, 0), "natural_id", 5)


@pytest.mark.parametrize(
    ("name", "num_devices", "options"),
    [
        ("iid", 5000, {}),
        ("linear", 400, {}),
        ("dirichlet", 100, {"min_partition_size": 50}),
        ("pathological", 5, {"num_classes_per_partition": 6}),
        ("distribution", 7, {}),
        ("shard", 400, {}),
    ],
)
def test_impossible_partitions_are_refused_in_one_sentence(name, num_devices, options, pool, parts):
    with pytest.raises(UserError, match=rf"^data\.partitioner: {name} cannot split \d+ images"):
        share(pool, parts, name, num_devices, **options)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    victims=st.integers(1, 300),
    fleet_size=st.integers(1, 200),
    seed=st.integers(0, 2**63 - 1),
    data=st.data(),
)
def test_victims_are_spread_evenly_over_eligible_devices(victims, fleet_size, seed, data):
    eligible = data.draw(
        st.none() | st.sets(st.integers(0, fleet_size - 1), min_size=1).map(sorted).map(np.array)
    )
    none = np.empty(0, np.int64)
    parts = Parts(none, none, none, none, np.arange(victims))
    owners = assign_victims(parts, fleet_size, seed, eligible)
    devices = np.arange(fleet_size) if eligible is None else eligible
    assert owners.shape == (victims,)
    assert np.isin(owners, devices).all()
    counts = np.bincount(owners, minlength=fleet_size)[devices]
    assert counts.max() - counts.min() <= 1
    assert np.array_equal(owners, assign_victims(parts, fleet_size, seed, eligible))


def test_victims_need_an_eligible_device(parts):
    with pytest.raises(UserError, match="no device"):
        assign_victims(parts, 10, 0, np.empty(0, np.int64))


@pytest.mark.parametrize("devices", [1, 7, 40])
def test_images_drawn_on_demand_are_those_of_the_devices_streams(pool, devices):
    """A part of each device in turn, with a stream per device; the same for all devices at once."""
    filled = [np.arange(start, start + 9) for start in (0, 50, 300)]
    rows = DrawnRows(filled, 4, devices, 3)
    expected = [
        np.sort(generator(3, "device images", device).choice(filled[device % 3], 4))
        for device in range(devices)
    ]
    assert [own.tolist() for own in rows] == [own.tolist() for own in expected]
    assert rows.flat().tolist() == np.concatenate(expected).tolist()
    assert rows.lengths.tolist() == [4] * devices
    labels = np.arange(len(pool.labels)) // 3
    assert rows.classes(labels).tolist() == np.unique(labels[rows.flat()]).tolist()
    assert DeviceRows(expected).classes(labels).tolist() == rows.classes(labels).tolist()


def test_images_drawn_on_demand_take_no_memory_per_device():
    few, many = (len(pickle.dumps(DrawnRows([np.arange(5)], 2, n, 0))) for n in (10, 10**9))
    assert many - few < 16


@pytest.mark.parametrize("name", NAMES)
def test_devices_serve_the_classes_that_they_train_on(pool, parts, name):
    """In proportion to their training images: expected victims rounded down or up, by class."""
    device_images = share(pool, parts, name, 5)
    owners = assign_own_victims(pool, parts, device_images, 0)
    classes = np.arange(5)
    held = np.array([np.bincount(pool.labels[rows], minlength=5) for rows in device_images])
    wanted = pool.labels[parts.victims]
    served = np.array([np.bincount(wanted[owners == device], minlength=5) for device in range(5)])
    expected = held / held.sum(0) * np.bincount(wanted, minlength=5)
    assert np.array_equal(served.sum(0), np.bincount(wanted, minlength=5)[classes])
    assert (served >= np.floor(expected - 1e-9)).all()
    assert (served <= np.ceil(expected + 1e-9)).all()
    assert not served[held == 0].any()
    evenly = assign_victims(parts, 5, 0)
    if name == "pathological":  # two classes of five on each device
        assert np.mean(held[evenly, wanted] > 0) < 0.6
    assert np.array_equal(owners, assign_own_victims(pool, parts, device_images, 0))


def test_victims_of_a_class_that_no_device_holds_are_spread_over_all(make_pool):
    pool = make_pool(np.arange(300) % 3)
    none, victims = np.empty(0, np.int64), np.arange(150, 300)
    parts = Parts(none, none, none, none, victims)
    rows = [np.flatnonzero(pool.labels[:150] == label) for label in (0, 1)]
    owners = assign_own_victims(pool, parts, DeviceRows([*rows, none]), 0)
    assert set(owners[pool.labels[victims] == 0]) == {0}
    assert set(owners[pool.labels[victims] == 1]) == {1}
    unknown = np.bincount(owners[pool.labels[victims] == 2], minlength=3)
    assert unknown.sum() == 50
    assert unknown.min() >= 16


def test_listing_components_imports_no_slow_library():
    code = (
        "import sys; from testbed.core.registries import DATASETS, PARTITIONERS;"
        "DATASETS.names(); PARTITIONERS.names();"
        "sys.exit(bool({'datasets', 'flwr_datasets', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
