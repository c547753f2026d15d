"""Queries of trained attacks: replays, limits, and averaging against noise."""

import dataclasses

import numpy as np
import pytest
import torch

from testbed.adversaries.base import Intercepts
from testbed.adversaries.mounting import mount
from testbed.adversaries.released import ReleasedFeatures

SCALE = 0.4


def _noisy(x, rng):
    coarse = torch.nn.functional.avg_pool2d(x, 2)
    return coarse + SCALE * torch.randn(coarse.shape, generator=rng)


def _replayed(case, replays):
    """Return the evidence of an attacker whose intercepts are means over ``replays`` releases."""
    draws = [case.oracle.query(case.victims, 20_000 + draw) for draw in range(replays)]
    intercepts = Intercepts(np.mean(draws, axis=0), case.evidence.intercepts.answers)
    return dataclasses.replace(case.evidence, intercepts=intercepts, replays=replays)


@pytest.mark.parametrize("replays", [1, 4, 16])
def test_auxiliary_features_carry_the_same_noise_as_intercepts(build_case, replays):
    case = build_case(_noisy)
    released = ReleasedFeatures(_replayed(case, replays))
    for images, features in (
        (case.evidence.auxiliary.images, released.training(0)),
        (case.evidence.auxiliary_validation.images, released.validation()),
    ):
        clean = torch.nn.functional.avg_pool2d(torch.from_numpy(images.copy()), 2).numpy()
        assert float((features - clean).std()) == pytest.approx(SCALE / replays**0.5, rel=0.1)


def test_averaging_divides_an_unbiased_estimates_error_by_the_replays(build_case):
    """If the features are the image plus noise, the error of z itself decreases as 1 / m."""

    def image_and_noise(x, rng):
        return x + SCALE * torch.randn(x.shape, generator=rng)

    case = build_case(image_and_noise, victims=16)
    errors = [
        float(np.square(_replayed(case, m).intercepts.features - case.victims).mean())
        for m in (1, 8, 64)
    ]
    np.testing.assert_allclose(errors[0] / np.array(errors), [1, 8, 64], rtol=0.15)


def test_averaging_lowers_the_error_of_an_attack(build_case):
    case = build_case(_noisy, victims=32)
    errors = [case.mse(mount("ridge", {}, _replayed(case, replays), 0)) for replays in (1, 8, 64)]
    assert errors[1] < 0.75 * errors[0]
    assert errors[2] < 0.75 * errors[1]


def test_replays_of_a_deterministic_release_need_no_queries(build_case, front_ends):
    case = build_case(front_ends["pooled"])
    replayed = dataclasses.replace(case.evidence, replays=8)
    once, again = (mount("ridge", {}, evidence, 0) for evidence in (case.evidence, replayed))
    assert np.array_equal(once.images, again.images)
    assert once.queries == again.queries


@pytest.mark.parametrize("name", ["ridge", "kernel_ridge", "residual_decoder", "label_inference"])
@pytest.mark.parametrize("front_end", ["pooled", "noisy"])
@pytest.mark.parametrize("limit", [20, 45, 300])
def test_attacks_stay_within_their_query_limit(build_case, front_ends, name, front_end, limit):
    case = build_case(front_ends[front_end])
    options = {"max_epochs": 2, "min_epoch_steps": 1} if name == "residual_decoder" else {}
    evidence = dataclasses.replace(case.evidence, query_limit=limit)
    found = mount(name, options, evidence, 0)
    assert found.queries <= limit
    assert len(found.images) == len(case.victims)


def test_more_queries_help_the_attacker(build_case, front_ends):
    case = build_case(front_ends["pooled"])
    errors = []
    for limit in (24, 60):
        evidence = dataclasses.replace(case.evidence, query_limit=limit)
        errors.append(case.mse(mount("ridge", {}, evidence, 0)))
    assert errors[1] < errors[0]
