"""The data of a run."""

import numpy as np
import pytest

from testbed.data.federated import load_federated_data, to_unit
from testbed.scenario.schema import DataSection


@pytest.fixture(scope="module")
def data():
    return load_federated_data(DataSection(), 100, seed=3)


def test_every_device_and_victim_is_accounted_for(data):
    assert len(data.device_images) == 100
    held = np.sort(np.concatenate(data.device_images))
    assert np.array_equal(held, data.parts.training)
    assert data.victim_owner.shape == data.parts.victims.shape
    assert data.victim_owner.min() >= 0
    assert data.victim_owner.max() < 100


def test_devices_serve_their_own_classes_unless_the_scenario_says_uniform():
    skewed = {"partitioner": {"name": "pathological", "num_classes_per_partition": 2}}
    own = load_federated_data(DataSection(**skewed), 20, seed=3)
    uniform = load_federated_data(DataSection(**skewed, serving_images="uniform"), 20, seed=3)
    assert own.victims_of_own_classes == 1.0
    assert 0.1 < uniform.victims_of_own_classes < 0.35
    per_device = np.bincount(uniform.victim_owner, minlength=20)
    assert per_device.max() - per_device.min() <= 1
    assert np.array_equal(own.parts.victims, uniform.parts.victims)


def test_normalisation_statistics_are_those_of_the_training_part(data):
    training = data.pool.images[data.parts.training].astype(np.float64) / 255
    assert data.mean == pytest.approx(training.mean(axis=(0, 2, 3)), rel=1e-6)
    assert data.std == pytest.approx(training.std(axis=(0, 2, 3)), rel=1e-6)
    assert data.mean.dtype == data.std.dtype == np.float32


def test_majority_class_line(data):
    training = data.pool.labels[data.parts.training]
    values, counts = np.unique(training, return_counts=True)
    victims = data.pool.labels[data.parts.victims]
    assert data.majority_class_accuracy == np.mean(victims == values[counts.argmax()])


def test_seed_changes_split_and_owners(data):
    again = load_federated_data(DataSection(), 100, seed=3)
    other = load_federated_data(DataSection(), 100, seed=4)
    assert np.array_equal(again.victim_owner, data.victim_owner)
    assert np.array_equal(again.parts.victims, data.parts.victims)
    assert not np.array_equal(other.parts.training, data.parts.training)


def test_to_unit_covers_zero_to_one():
    unit = to_unit(np.arange(256, dtype=np.uint8))
    assert unit.dtype == np.float32
    assert unit[0] == 0
    assert unit[255] == 1
    assert np.array_equal(np.round(unit * 255).astype(np.uint8), np.arange(256))
