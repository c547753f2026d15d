"""Inference without images: classes and same-person pairs from informative features."""

import dataclasses

import numpy as np
import pytest
import torch

from testbed.adversaries.base import Evidence, Intercepts, LabelledImages
from testbed.adversaries.mounting import mount

GROUPS = 6


def _evidence(informative=True, seed=0):
    """Return images whose brightness depends on their group, and features that may too."""
    rng = np.random.default_rng(seed)

    def images(count):
        labels = np.arange(count, dtype=np.int64) % GROUPS
        noise = 0.02 * rng.standard_normal((count, 1, 16, 16))
        pattern = np.stack([np.roll(np.linspace(0.2, 0.8, 16), 3 * k) for k in range(GROUPS)])
        made = pattern[labels][:, None, None, :] + noise
        return LabelledImages(made.clip(0, 1).astype(np.float32), labels)

    class Oracle:
        def query(self, x, draw):
            if not informative:
                return np.random.default_rng(draw).standard_normal((len(x), 2, 4, 4)).astype("f4")
            return torch.nn.functional.avg_pool2d(torch.tensor(x), 4).numpy()

    victims = images(24)
    oracle = Oracle()
    features = oracle.query(victims.images, 99)
    return Evidence(
        GROUPS, images(48), images(18), Intercepts(features, victims.labels), oracle
    ), victims.labels


def test_classes_and_same_person_pairs_are_inferred_from_informative_features():
    evidence, labels = _evidence()
    inferred = mount("label_inference", {}, evidence, 0).inferred
    assert np.mean(inferred.classes == labels) > 0.95
    assert np.mean(labels[inferred.same_person] == labels) > 0.95
    assert (inferred.same_person != np.arange(len(labels))).all()


def test_noise_gives_about_chance():
    rates = []
    for seed in range(4):
        evidence, labels = _evidence(informative=False, seed=seed)
        inferred = mount("label_inference", {}, evidence, seed).inferred
        rates.append(np.mean(inferred.classes == labels))
    assert np.mean(rates) < 2.5 / GROUPS


def test_its_images_are_class_means():
    evidence, labels = _evidence()
    found = mount("label_inference", {}, evidence, 0)
    mean = evidence.auxiliary.images[evidence.auxiliary.labels == labels[0]].mean(axis=0)
    np.testing.assert_allclose(found.images[0], mean, atol=0.1)


@pytest.mark.parametrize("count", [0, 1])
def test_an_attack_with_few_intercepts_works(count):
    evidence, _ = _evidence()
    few = Intercepts(evidence.intercepts.features[:count], evidence.intercepts.answers[:count])
    found = mount("label_inference", {}, dataclasses.replace(evidence, intercepts=few), 0)
    assert len(found.images) == count
    assert len(found.inferred.same_person) == 0
