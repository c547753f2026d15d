"""The sanity pair passes for these attacks, and fails for ones that are broken or know too much."""

import dataclasses

import numpy as np
import pytest

from testbed.core.scenario import DataSection
from testbed.data.federated import load_federated_data
from testbed.engine import sanity
from testbed.engine.sanity import sanity_checks


@pytest.fixture(scope="module")
def data():
    return load_federated_data(DataSection(name="digits", max_images=200), 4, 0)


def test_both_hold_and_are_reproducible(data):
    checks = sanity_checks(data, 0)
    assert [check["passed"] for check in checks] == [True, True]
    assert checks == sanity_checks(data, 0)


def _changed(monkeypatch, change):
    mount = sanity.mount

    def broken(name, options, evidence, seed):
        found = mount(name, options, evidence, seed)
        return dataclasses.replace(found, images=change(found.images))

    monkeypatch.setattr(sanity, "mount", broken)


def test_an_attack_that_inverts_badly_fails(data, monkeypatch):
    _changed(monkeypatch, lambda images: np.clip(images + 0.1, 0.0, 1.0).astype(np.float32))
    assert [check["passed"] for check in sanity_checks(data, 0)] == [False, False]


def test_an_attack_that_knows_more_than_the_mean_fails(data, monkeypatch):
    _changed(monkeypatch, lambda images: (0.999 * images).astype(np.float32))
    identity, constant = sanity_checks(data, 0)
    assert identity["passed"]
    assert not constant["passed"]
