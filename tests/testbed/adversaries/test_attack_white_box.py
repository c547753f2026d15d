"""White-box search: the prior, the projection, tuning, restarts, and its grants."""

import numpy as np
import torch

from testbed.adversaries.base import silent
from testbed.adversaries.feature_search import (
    Descent,
    FeatureDistance,
    Search,
    total_variation,
)
from testbed.adversaries.mounting import mount
from testbed.adversaries.released import ChannelNormaliser, ReleasedFeatures
from testbed.adversaries.white_box import Ascent, ResidualPrior, WhiteBox, WhiteBoxOptions

FROM_MEAN = {"start": "mean_image", "steps": 80, "prior": "total_variation"}


def _distance(case, is_random=False):
    oracle = case.oracle
    normalise = ChannelNormaliser.fit(oracle.query(case.evidence.auxiliary.images, 1))
    return FeatureDistance(oracle, normalise, is_random)


def test_total_variation_by_hand():
    stripes = torch.zeros(1, 1, 4, 4)
    stripes[..., 1::2] = 0.5
    assert total_variation(stripes).tolist() == [0.5]
    assert total_variation(stripes.transpose(2, 3)).tolist() == [0.5]
    assert total_variation(torch.full((2, 3, 4, 4), 0.3)).tolist() == [0.0, 0.0]


def test_distance_is_per_image_and_independent_of_the_features_scale(build_case, front_ends):
    plain = build_case(front_ends["pooled"])
    scaled = build_case(lambda x, rng: 500.0 * front_ends["pooled"](x, rng))
    start = plain.evidence.auxiliary.images[: len(plain.victims)].copy()
    values = [
        _distance(case).expected(start, case.evidence.intercepts.features)
        for case in (plain, scaled)
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-3)
    exact = _distance(plain).expected(plain.victims, plain.evidence.intercepts.features)
    assert exact.max() < 1e-8
    alone = _distance(plain).expected(start[3:4], plain.evidence.intercepts.features[3:4])
    np.testing.assert_allclose(alone, values[0][3:4], rtol=1e-4)


def test_search_finds_the_image_of_invertible_features_and_stays_in_range(build_case):
    def mixed(x, rng):
        """An orthogonal mixture of pixels: only its inverse gives the image back."""
        basis = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(5)))[0]
        cells = torch.nn.functional.pixel_unshuffle(x, 8)
        return torch.einsum("kc,nchw->nkhw", basis, cells)

    case = build_case(mixed)
    features = case.evidence.intercepts.features
    start = np.full_like(case.victims, 0.5)
    stops = Descent(150, 0.1).run(_distance(case), start, features, 0.0, [0, 150])
    np.testing.assert_array_equal(stops[0], start)
    assert np.abs(stops[1] - case.victims).max() < 0.02
    assert 0.0 <= stops[1].min() <= stops[1].max() <= 1.0


def test_a_victims_result_does_not_depend_on_its_chunk(build_case, front_ends):
    case = build_case(front_ends["pooled"])
    features, start = case.evidence.intercepts.features, np.full_like(case.victims, 0.5)
    descent, distance = Descent(20, 0.05), _distance(case)
    together = descent.run(distance, start, features, 0.1, [20])[0]
    alone = descent.run(distance, start[2:3], features[2:3], 0.1, [20])[0]
    np.testing.assert_allclose(together[2:3], alone, atol=1e-4)


def test_the_start_is_kept_if_searching_only_fits_noise(build_case):
    def drowned(x, rng):
        coarse = torch.nn.functional.avg_pool2d(x, 4)
        return coarse + 20.0 * torch.randn(coarse.shape, generator=rng)

    case = build_case(drowned)
    found = mount("white_box", FROM_MEAN, case.evidence, 0)
    assert case.mse(found) <= 1.02 * case.mean_image_mse


def test_restarts_are_chosen_by_feature_distance_alone(build_case, front_ends):
    case = build_case(front_ends["pooled"])
    features = case.evidence.intercepts.features
    distance = _distance(case)

    def distances(restarts):
        images = mount("white_box", {**FROM_MEAN, "restarts": restarts}, case.evidence, 0).images
        return distance.expected(images, features)

    one, four = distances(1), distances(4)
    assert (four <= one * (1 + 1e-5)).all()
    assert (four < 0.999 * one).any()


def test_random_releases_are_drawn_anew_at_every_step(build_case, front_ends, monkeypatch):
    case = build_case(front_ends["noisy"])
    draws = []
    plain = case.oracle.differentiable_query

    def recording(x, draw):
        if x.requires_grad:
            draws.append(draw)
        return plain(x, draw)

    monkeypatch.setattr(case.oracle, "differentiable_query", recording)
    features, start = case.evidence.intercepts.features[:4], np.full_like(case.victims[:4], 0.5)
    Descent(10, 0.05).run(_distance(case, is_random=True), start, features, 0.0, [10])
    assert len(set(draws)) == len(draws) == 10


def curved(x, rng):
    """Few features that bend: a start from queries alone misses what the weights tell."""
    mixed = torch.nn.functional.avg_pool2d(x, 2).flatten(1)
    basis = torch.randn(16, 16, generator=torch.Generator().manual_seed(5))
    return torch.tanh(2.0 * (mixed - 0.5) @ basis).reshape(len(x), 16, 1, 1)


def test_the_most_probable_image_is_nearer_than_its_start_and_than_total_variation(build_case):
    case = build_case(curved, auxiliary=40, size=8)
    options = {"start": "kernel_ridge", "steps": 64, "restarts": 1, "prior_weights": [0.03]}
    start = case.mse(mount("kernel_ridge", {}, case.evidence, 0))
    found = case.mse(mount("white_box", options, case.evidence, 0))
    plain = {**options, "prior": "total_variation", "tv_weights": [0.03]}
    assert found < 0.85 * start
    assert found < 0.9 * case.mse(mount("white_box", plain, case.evidence, 0))


def test_the_start_is_kept_under_a_prior_of_residuals_too_if_searching_only_fits_noise(build_case):
    def drowned(x, rng):
        coarse = torch.nn.functional.avg_pool2d(x, 4)
        return coarse + 20.0 * torch.randn(coarse.shape, generator=rng)

    case = build_case(drowned)
    options = {"start": "mean_image", "steps": 80}
    assert case.mse(mount("white_box", options, case.evidence, 0)) <= 1.02 * case.mean_image_mse


def test_the_prior_has_the_covariance_of_what_the_start_misses():
    rng = np.random.default_rng(0)
    missed = rng.standard_normal((40, 1, 4, 4), np.float32)
    axes = ResidualPrior.of(missed, 1000).axes.reshape(-1, 16)
    flat = missed.reshape(40, 16)
    np.testing.assert_allclose(axes.T @ axes, flat.T @ flat / 40, atol=1e-5)
    few = ResidualPrior.of(missed, 5).axes.reshape(5, 16)
    np.testing.assert_allclose(np.abs(few), np.abs(axes[:5]), atol=1e-6)


def test_under_a_prior_a_victims_result_does_not_depend_on_its_chunk(build_case, front_ends):
    case = build_case(front_ends["pooled"])
    features, start = case.evidence.intercepts.features, np.full_like(case.victims, 0.5)
    ascent = Ascent(20, ResidualPrior(case.evidence.auxiliary.images[:6] - 0.5))
    distance = _distance(case)
    together = ascent.run(distance, start, features, 0.1, [0, 20])
    alone = ascent.run(distance, start[2:3], features[2:3], 0.1, [20])[0]
    np.testing.assert_array_equal(together[0], start)
    np.testing.assert_allclose(together[1][2:3], alone, atol=1e-4)


def _search(case, starts):
    released = ReleasedFeatures(case.evidence)
    return Search(case.evidence, 0, released, _distance(case), starts, silent)


def test_as_many_starts_are_averaged_as_help_on_the_validation_images(build_case, front_ends):
    """Two starts err in opposite directions, a third one wildly."""
    case = build_case(front_ends["identity"])
    starts = [lambda z: 0.9 * z, lambda z: (1.1 * z).clip(0.0, 1.0), lambda z: 0.0 * z]
    options = WhiteBoxOptions(steps=8, prior_weights=[1e9])  # so strong a prior keeps every start
    found = WhiteBox(options).tuned(_search(case, starts))[0](case.victims)
    expected = (starts[0](case.victims) + starts[1](case.victims)) / 2
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_the_prior_of_tuning_does_not_know_the_errors_on_the_images_of_tuning(
    build_case, front_ends, monkeypatch
):
    case = build_case(front_ends["identity"])
    learned = []
    plain = ResidualPrior.of.__func__

    def recording(cls, missed, most):
        learned.append(missed)
        return plain(cls, missed, most)

    monkeypatch.setattr(ResidualPrior, "of", classmethod(recording))
    options = WhiteBoxOptions(steps=8, tuning_images=6)
    WhiteBox(options).tuned(_search(case, [lambda z: 0.9 * z]))
    own = case.evidence.auxiliary_validation.images
    first, final = learned
    assert (len(first), len(final)) == (5 * (len(own) - 6), 5 * len(own))
    np.testing.assert_allclose(first[: len(own) - 6], 0.1 * own[6:], atol=1e-6)


def test_the_better_of_both_starts_is_searched_from(build_case, front_ends):
    case = build_case(front_ends["pooled"])
    brief = {"max_epochs": 1, "min_epoch_steps": 1}
    options = {"steps": 8, "decoder": brief, "restarts": 1, "prior_weights": [1e9]}
    # So strong a prior keeps every start.
    best = mount("white_box", {**options, "start": "best"}, case.evidence, 0)
    closed = mount("white_box", {**options, "start": "kernel_ridge"}, case.evidence, 0)
    np.testing.assert_allclose(best.images, closed.images, atol=1e-3)
    assert best.body_parameters is not None
    slow = {**brief, "capacity": "small", "members": 1}
    both = mount("white_box", {**options, "averaged_decoder": slow}, case.evidence, 0)
    np.testing.assert_allclose(both.images, closed.images, atol=1e-3)
    assert both.queries > best.queries
    assert closed.body_parameters is None
