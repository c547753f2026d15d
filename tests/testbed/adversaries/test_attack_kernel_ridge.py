"""Kernel ridge: the fit against an independent solution, and a nonlinear code."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge as IndependentKernelRidge

from testbed.adversaries import released
from testbed.adversaries.kernel_ridge import Kernel, combined, fit
from testbed.adversaries.mounting import mount


def test_fit_equals_an_independent_solution():
    rng = np.random.default_rng(0)
    own = rng.normal(size=(30, 5)).astype(np.float32)
    fresh = rng.normal(size=(7, 5)).astype(np.float32)
    targets = rng.normal(size=(30, 4)).astype(np.float32)
    unit = np.sqrt((own.astype(np.float64) ** 2).sum(axis=1).mean())

    def kernel(a, b):
        return a @ b / unit**2 + np.exp(-np.linalg.norm(a - b) / unit / 2.0)

    independent = IndependentKernelRidge(alpha=0.1, kernel=kernel).fit(own, targets)
    parts = Kernel(own)
    weights = fit(combined(parts.parts(own), 2.0), 0.1, targets)
    found = combined(parts.parts(fresh), 2.0) @ weights
    np.testing.assert_allclose(found, independent.predict(fresh), atol=2e-3)


def test_one_triangle_gives_the_weights_of_the_whole_kernel():
    rng = np.random.default_rng(0)
    own = rng.normal(size=(40, 6)).astype(np.float32)
    targets = rng.normal(size=(40, 4)).astype(np.float32)
    parts = Kernel(own)
    among = combined(parts.among(), 2.0)
    whole = combined(parts.parts(own), 2.0)
    np.fill_diagonal(whole, np.diag(among))  # distances of a sample to itself are rounding errors
    np.testing.assert_allclose(np.tril(among), np.tril(whole), rtol=1e-5, atol=1e-6)
    among[np.triu_indices(40, 1)] = np.nan  # of no effect
    np.testing.assert_allclose(fit(among, 0.1, targets), fit(whole, 0.1, targets), atol=1e-4)


def test_a_code_that_no_linear_map_inverts(build_case):
    # A sign that does not depend on the image flips all features, which no linear map can undo.
    def coded(x, rng):
        coarse = torch.nn.functional.avg_pool2d(x - 0.5, 8)
        sign = torch.sign(torch.sin(40.0 * x[:, :, :1, :1]))
        return torch.cat([coarse * sign, sign.expand_as(coarse)], dim=1)

    case = build_case(coded, auxiliary=600, victims=64)
    line = case.mse(mount("ridge", {}, case.evidence, 0))
    options = {"variations": [0]}
    assert case.mse(mount("kernel_ridge", options, case.evidence, 0)) < 0.85 * line


def test_random_releases_are_drawn_several_times(build_case, front_ends):
    case = build_case(front_ends["noisy"])
    mount("kernel_ridge", {"releases_per_image": 3, "variations": [0]}, case.evidence, 0)
    full = [draw for count, draw in case.oracle.queries if count == 48]
    assert len(full) == len(set(full)) == 3


def test_variations_are_queried_once_and_only_within_the_limit(build_case, front_ends):
    case = build_case(front_ends["noisy"])
    options = {"releases_per_image": 1, "variations": [2, 4], "fits": 3}
    mount("kernel_ridge", options, case.evidence, 0)
    full = [draw for count, draw in case.oracle.queries if count == 48]
    # The images, four variations to choose from, and those of two further fits.
    assert len(full) == len(set(full)) in (1 + 4 + 2 * 2, 1 + 4 + 2 * 4)
    for spare, passes in ((48 * 6 - 1, 1), (48 * 6, 7)):
        case.oracle.queries.clear()
        validation = len(case.evidence.auxiliary_validation.images)
        probed, limit = 8, 48 + validation + spare
        limited = replace(case.evidence, query_limit=probed + limit)
        found = mount("kernel_ridge", {**options, "variations": [2]}, limited, 0)
        assert found.queries <= probed + limit
        assert sum(count == 48 for count, _ in case.oracle.queries) <= passes


def test_variations_help_where_images_are_few(build_case):
    def coded(x, rng):
        coarse = torch.nn.functional.avg_pool2d(x, 4)
        return torch.cat([coarse.square(), (8.0 * coarse).sin()], dim=1)

    case = build_case(coded, auxiliary=40, victims=64)
    errors = [
        case.mse(mount("kernel_ridge", {"variations": [count]}, case.evidence, 0))
        for count in (0, 4)
    ]
    assert errors[1] < 0.97 * errors[0]


def test_samples_are_capped(build_case, front_ends):
    case = build_case(front_ends["pooled"])
    capped = mount("kernel_ridge", {"max_samples": 30}, case.evidence, 0).images
    assert np.abs(capped - mount("kernel_ridge", {}, case.evidence, 0).images).max() > 1e-3


def test_features_of_one_dimension_are_attacked_too(build_case):
    # Their kernel is singular up to rounding errors, which exceed a small penalty.
    def collapsed(x, rng):
        return x.mean(dim=(1, 2, 3), keepdim=True).expand(-1, 12, 8, 8).contiguous()

    case = build_case(collapsed, auxiliary=900, victims=32)
    options = {"alphas": [1e-9, 1.0], "widths": [1e6]}
    images = mount("kernel_ridge", options, case.evidence, 0).images
    assert np.isfinite(images).all()
    assert case.mse(mount("kernel_ridge", options, case.evidence, 0)) < 0.1


def test_it_is_never_worse_than_the_linear_inverse_of_the_same_releases(build_case):
    def line(x, rng):
        basis = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(5)))[0]
        return torch.einsum("kc,nchw->nkhw", basis, torch.nn.functional.pixel_unshuffle(x, 8))

    case = build_case(line, auxiliary=96)
    linear = case.mse(mount("ridge", {}, case.evidence, 0))
    assert linear < 1e-4
    assert case.mse(mount("kernel_ridge", {}, case.evidence, 0)) <= linear


@pytest.mark.parametrize("name", ["ridge", "kernel_ridge"])
def test_closed_forms_take_fewer_pairs_where_their_features_would_not_fit(
    name, build_case, front_ends, monkeypatch
):
    case = build_case(front_ends["pooled"])
    whole = mount(name, {}, case.evidence, seed=0)
    features = case.evidence.intercepts.features[0].size
    monkeypatch.setattr(released, "MATRIX_BYTES", 5 * 24 * 4 * features)
    capped = mount(name, {}, case.evidence, seed=0)
    assert case.mse(whole) < case.mse(capped) < case.mean_image_mse
