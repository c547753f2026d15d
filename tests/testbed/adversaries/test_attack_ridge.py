"""Ridge regression: both forms against an independent solution, and the choice of the penalty."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as IndependentRidge

from testbed.adversaries import ridge
from testbed.adversaries.mounting import mount
from testbed.adversaries.ridge import RidgeRegression
from testbed.core.registries import ATTACKS


@pytest.mark.parametrize(("samples", "dimensions"), [(20, 50), (60, 9), (12, 12)])
@pytest.mark.parametrize("alpha", [1e-4, 0.1, 10.0])
def test_both_forms_equal_an_independent_solution(samples, dimensions, alpha):
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(samples, dimensions)), rng.normal(size=(samples, 3))
    fresh = rng.normal(size=(5, dimensions))
    centred = inputs - inputs.mean(axis=0)
    unit = float(np.square(centred).sum()) / samples
    expected = IndependentRidge(alpha=alpha * unit).fit(inputs, targets).predict(fresh)
    solution = RidgeRegression(inputs, targets)
    found = solution.predict(solution.project(fresh), alpha)
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize(("samples", "dimensions"), [(20, 50), (60, 9)])
def test_blocks_change_nothing_but_the_order_of_sums(samples, dimensions, monkeypatch):
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(samples, dimensions)), rng.normal(size=(samples, 3))
    inputs, fresh = inputs.astype(np.float32), rng.normal(size=(5, dimensions)).astype(np.float32)
    at_once = RidgeRegression(inputs, targets)
    whole = at_once.predict(at_once.project(fresh), 0.1)
    monkeypatch.setattr(ridge, "BLOCK", 7)
    by_blocks = RidgeRegression(inputs, targets)
    found = by_blocks.predict(by_blocks.project(fresh), 0.1)
    np.testing.assert_allclose(found, whole, rtol=1e-10, atol=1e-12)


def test_a_strong_penalty_is_chosen_for_uninformative_features(build_case):
    def noise(x, rng):
        return torch.randn(len(x), 6, 4, 4, generator=rng)

    case = build_case(noise)
    lines = []
    reconstruction = ATTACKS.create("ridge", {}).mount(case.evidence, 0, lines.append)
    penalty = float(lines[0].split()[1].rstrip(","))
    assert penalty >= 10.0
    assert case.mse(reconstruction) < 1.1 * case.mean_image_mse


def test_random_releases_are_drawn_several_times(build_case, front_ends):
    case = build_case(front_ends["noisy"])
    mount("ridge", {"releases_per_image": 3}, case.evidence, 0)
    full = [draw for count, draw in case.oracle.queries if count == 48]
    assert len(full) == len(set(full)) == 3


def test_deterministic_releases_are_queried_once(build_case, front_ends):
    case = build_case(front_ends["pooled"])
    mount("ridge", {}, case.evidence, 0)
    assert sum(count == 48 for count, _ in case.oracle.queries) == 1


def test_samples_are_capped(build_case, front_ends):
    case = build_case(front_ends["pooled"])
    capped = mount("ridge", {"max_samples": 30}, case.evidence, 0).images
    assert np.abs(capped - mount("ridge", {}, case.evidence, 0).images).max() > 1e-3
