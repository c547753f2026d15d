"""The query-free attack: the discrepancy by hand, and its success against the mean image."""

import dataclasses

import numpy as np
import pytest
import torch

from testbed.adversaries.mounting import mount
from testbed.adversaries.shadow_front_end import (
    mmd_squared,
)
from testbed.core.errors import UserError
from testbed.core.registries import FRONT_ENDS
from testbed.scenario.components import Component

DESIGN = Component(name="cnn", options={"cut": 1, "width": 8})
OPTIONS = {"steps": 250, "decoder": {"max_epochs": 6, "min_epoch_steps": 20}}
SHORT = {"steps": 2, "decoder": {"max_epochs": 1, "min_epoch_steps": 1}}


@pytest.fixture
def cnn_case(build_case, front_ends):
    """Return features of a CNN with weights unknown to the attacker, and no oracle."""
    torch.manual_seed(3)
    network = FRONT_ENDS.create("cnn", DESIGN.options, image_shape=(1, 16, 16))
    with torch.no_grad():
        images = torch.from_numpy(
            build_case(front_ends["pooled"], victims=0).evidence.auxiliary.images.copy()
        )
        for _ in range(20):  # statistics of images like those it runs on
            network(images - 0.5)
    network.eval()
    case = build_case(lambda x, rng: network(x - 0.5), victims=24)
    evidence = dataclasses.replace(case.evidence, oracle=None, architecture=DESIGN)
    return dataclasses.replace(case, evidence=evidence)


def test_mmd_is_zero_for_equal_samples_and_grows_with_the_distance():
    rng = torch.Generator().manual_seed(0)
    sample = torch.randn(40, 3, generator=rng)
    assert float(mmd_squared(sample, sample)) == pytest.approx(0.0, abs=1e-6)
    far = [float(mmd_squared(sample, sample + shift)) for shift in (0.5, 1.0, 4.0)]
    assert far == sorted(far)
    assert far[0] > 0.0
    # Samples of one distribution are nearer than those of two.
    other = torch.randn(40, 3, generator=rng)
    assert float(mmd_squared(sample, other)) < 0.5 * far[1]


def test_it_beats_the_mean_image_without_queries_or_weights(cnn_case):
    found = mount("substitute", OPTIONS, cnn_case.evidence, 0)
    assert found.queries == 0
    assert cnn_case.mse(found) < 0.6 * cnn_case.mean_image_mse


def test_the_architecture_must_be_known_and_fit(cnn_case):
    unknown = dataclasses.replace(cnn_case.evidence, architecture=None)
    with pytest.raises(UserError, match="needs the architecture"):
        mount("substitute", SHORT, unknown, 0)
    other = Component(name="cnn", options={"cut": 2, "width": 8})
    with pytest.raises(UserError, match="the intercepts are"):
        mount("substitute", SHORT, dataclasses.replace(cnn_case.evidence, architecture=other), 0)


def test_one_intercept_is_too_few_to_learn_from(cnn_case):
    intercepts = cnn_case.evidence.intercepts
    one = dataclasses.replace(
        cnn_case.evidence,
        intercepts=dataclasses.replace(
            intercepts, features=intercepts.features[:1], answers=intercepts.answers[:1]
        ),
    )
    mean = one.auxiliary.images.mean(axis=0, dtype=np.float64)
    assert np.abs(mount("substitute", OPTIONS, one, 0).images - mean).max() < 1e-6
