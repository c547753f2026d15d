"""The sanity pair passes for these attacks, and fails for ones that are broken or know too much."""

import dataclasses

import numpy as np
import pytest

from testbed.adversaries.base import LabelledImages
from testbed.data.federated import load_federated_data
from testbed.engine.attacking import sanity
from testbed.engine.attacking.sanity import sanity_checks
from testbed.scenario.schema import DataSection


@pytest.fixture(scope="module")
def data():
    return load_federated_data(DataSection(name="digits", max_images=200, image_size_px=16), 4, 0)


def test_both_hold_and_are_reproducible(data):
    checks = sanity_checks(data, 0)
    assert [check.passed for check in checks] == [True, True]
    assert checks == sanity_checks(data, 0)


def _changed(monkeypatch, change):
    mount = sanity.mount

    def broken(name, options, evidence, seed):
        found = mount(name, options, evidence, seed)
        return dataclasses.replace(found, images=change(found.images))

    monkeypatch.setattr(sanity, "mount", broken)


def test_an_attack_that_inverts_badly_fails(data, monkeypatch):
    _changed(monkeypatch, lambda images: np.clip(images + 0.1, 0.0, 1.0).astype(np.float32))
    assert [check.passed for check in sanity_checks(data, 0)] == [False, False]


def test_an_attack_that_knows_more_than_the_mean_fails(data, monkeypatch):
    _changed(monkeypatch, lambda images: (0.999 * images).astype(np.float32))
    identity, constant = sanity_checks(data, 0)
    assert identity.passed
    assert not constant.passed


def test_each_attack_of_the_identity_check_can_fail_it(data, monkeypatch):
    mount = sanity.mount

    def blind(name, options, evidence, seed):
        found = mount(name, options, evidence, seed)
        if name != broken:
            return found
        mean = np.broadcast_to(evidence.auxiliary.images.mean(axis=0), found.images.shape)
        return dataclasses.replace(found, images=mean.astype(np.float32))

    monkeypatch.setattr(sanity, "mount", blind)
    for probe in sanity.IDENTITY_PROBES:
        broken = probe.attack
        assert not sanity_checks(data, 0)[0].passed, broken


@pytest.mark.parametrize("size", [16, 32])
def test_little_data_is_enough_for_both(size):
    section = DataSection(name="digits", max_images=50, image_size_px=size)
    checks = sanity_checks(load_federated_data(section, 2, 0), 0)
    assert [check.passed for check in checks] == [True, True], checks


def test_patches_are_cut_from_the_images():
    images = np.arange(2 * 3 * 8 * 12, dtype=np.float32).reshape(2, 3, 8, 12)
    cut = sanity._patches(LabelledImages(images, np.array([4, 7])), 4)
    assert cut.images.shape == (12, 3, 4, 4)
    np.testing.assert_array_equal(cut.images[6 + 4], images[1, :, 4:8, 4:8])
    assert cut.labels.tolist() == [4] * 6 + [7] * 6
