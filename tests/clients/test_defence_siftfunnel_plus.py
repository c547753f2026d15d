"""SiftFunnel+: every term against a slow reference, and its invariances."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from small import make_spec

from clients.defences.base import Batch
from clients.defences.siftfunnel_plus import (
    PENALTIES,
    decoder_leak,
    unbiased_distance_correlation,
    without_low_frequencies,
)
from testbed.core.registries import DEFENCES, FRONT_ENDS
from testbed.fleet.layer_stats import layer_stats
from testbed.privacy.leakage import distance_correlation_u

TERMS = {"leak": decoder_leak, "correlation": unbiased_distance_correlation}


def plus(**options):
    return DEFENCES.create("siftfunnel_plus", options)


def batch_of(x, z):
    return Batch(x, torch.zeros(len(x), dtype=torch.int64), z, z)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# The view


@pytest.mark.parametrize("count", [1, 3, 5])
def test_view_removes_the_lowest_frequencies_of_scipy(count):
    x = torch.rand(3, 2, 8, 12, generator=torch.Generator().manual_seed(1))
    coefficients = dctn(x.numpy().astype(np.float64), axes=(2, 3), norm="ortho")
    coefficients[:, :, :count, :count] = 0.0
    expected = idctn(coefficients, axes=(2, 3), norm="ortho")
    np.testing.assert_allclose(without_low_frequencies(x, count).numpy(), expected, atol=1e-6)


def test_view_is_invariant_to_low_frequencies_brightness_and_contrast():
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    low = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    low = low - without_low_frequencies(low, 3)
    defence = plus(hidden_frequencies=3)
    torch.testing.assert_close(defence.view(x + low), defence.view(x), atol=2e-5, rtol=0.0)
    torch.testing.assert_close(defence.view(0.4 * x + 0.3), defence.view(x), atol=2e-5, rtol=0.0)


def test_equal_contrast_and_its_limit():
    x = torch.rand(2, 3, 16, 16) * torch.tensor([1.0, 0.3])[:, None, None, None]
    detail = plus().view(x) - 0.5
    torch.testing.assert_close(detail.square().mean(dim=(1, 2, 3)).sqrt(), torch.full((2,), 0.25))
    flat = plus().view(torch.full((1, 3, 16, 16), 0.7))
    torch.testing.assert_close(flat, torch.full_like(flat, 0.5), atol=1e-4, rtol=0.0)
    plain = plus(equal_contrast=False).view(x)
    torch.testing.assert_close(plain, without_low_frequencies(x, 3) + 0.5)


def test_a_view_that_hides_nothing_is_the_image():
    x = torch.rand(2, 1, 16, 16)
    assert plus(hidden_frequencies=0).view(x) is x


@pytest.mark.parametrize("front_end", ["cnn", "siftfunnel_cnn"])
def test_released_features_do_not_depend_on_hidden_frequencies(front_end):
    device_spec = make_spec(front_end, {"width": 32}, "siftfunnel_plus", {"noise": 0.5})
    model = device_spec.build()
    parameters, statistics = model.initial_weights()
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(4))
    other = x + 0.2 * (torch.linspace(0, 1, 32)[:, None].expand(32, 32))
    other = x + (other - x) - without_low_frequencies(other - x, 3)
    plain = make_spec(front_end, {"width": 32}).build()

    def change(program):
        """Return the largest change of the features, of their largest value."""
        weights = {**parameters, **statistics}
        shown, changed = (
            program.features(weights, images, torch.Generator().manual_seed(0))[1]
            for images in (x, other)
        )
        return float((shown - changed).abs().max() / shown.abs().max())

    assert change(model) < 2e-6  # rounding
    assert change(plain) > 2e-3


# The decoder penalty


def slow_leak(x, z, penalty):
    """Kernel ridge with an unpenalised intercept, fitted anew without each image."""
    z = z.reshape(len(z), -1).numpy()
    x = x.reshape(len(x), -1).numpy()
    z = z - z.mean(axis=0)
    z = z / np.sqrt((z**2).sum(axis=1).mean())
    errors = totals = 0.0
    for left in range(len(x)):
        rows = [i for i in range(len(x)) if i != left]
        gram = z[rows] @ z[rows].T
        away = ((z[rows][:, None] - z[rows][None]) ** 2).sum(axis=2)
        kernel = gram + np.exp(-away / 2) + penalty * np.eye(len(rows))
        bordered = np.block([[kernel, np.ones((len(rows), 1))], [np.ones((1, len(rows))), 0.0]])
        solution = np.linalg.solve(bordered, np.vstack([x[rows], np.zeros((1, x.shape[1]))]))
        to_left = z[rows] @ z[left] + np.exp(-((z[rows] - z[left]) ** 2).sum(axis=1) / 2)
        predicted = to_left @ solution[:-1] + solution[-1]
        errors += ((x[left] - predicted) ** 2).sum()
        totals += ((x[left] - x[rows].mean(axis=0)) ** 2).sum()
    return 1.0 - errors / totals


def test_leak_against_refitting_without_each_image():
    z = normal(14, 5, dtype=torch.float64)
    x = torch.tanh(z @ normal(5, 9, seed=1, dtype=torch.float64)) + 0.1 * normal(14, 9, seed=2)
    expected = max(slow_leak(x, z, penalty) for penalty in PENALTIES)
    # Up to the difference between the kernel's finite constant and a free intercept.
    assert float(decoder_leak(x, z)) == pytest.approx(expected, abs=0.02)


def test_leak_is_high_for_a_copy_and_zero_for_noise():
    x = normal(64, 6)
    assert float(decoder_leak(x, 3.0 * x + 1.0)) > 0.9
    noise = [float(decoder_leak(x, normal(64, 6, seed=seed))) for seed in range(1, 9)]
    assert abs(np.mean(noise)) < 0.06


# What both penalties have in common


@pytest.mark.parametrize("name", TERMS)
def test_scale_shift_and_dead_channels_have_no_effect(name):
    x, z = torch.rand(20, 1, 6, 6), normal(20, 4, 3, 3)
    z = z + x[:, :, :3, :3]
    term = TERMS[name]
    before = float(term(x, z))
    assert float(term(x, 0.01 * z)) == pytest.approx(before, abs=1e-3)
    assert float(term(x, z + 5.0)) == pytest.approx(before, abs=1e-3)
    with_dead = torch.cat([z, torch.full((20, 8, 3, 3), 2.0)], dim=1)
    assert float(term(x, with_dead)) == pytest.approx(before, abs=1e-3)


@pytest.mark.parametrize("dimensions", [1, 12, 768])
@pytest.mark.parametrize("name", TERMS)
def test_independent_features_have_no_penalty_in_any_dimension(name, dimensions):
    # The V-statistic of the published loss is 0.15 to 0.98 here.
    values = [
        float(TERMS[name](normal(128, 300, seed=seed), normal(128, dimensions, seed=seed + 100)))
        for seed in range(6)
    ]
    assert abs(np.mean(values)) < 0.03


@pytest.mark.parametrize("name", TERMS)
def test_equal_features_have_no_penalty_and_finite_gradients(name):
    z = torch.zeros(8, 3, 2, 2, requires_grad=True)
    value = TERMS[name](torch.rand(8, 1, 4, 4), z)
    value.backward()
    assert float(value.detach()) == pytest.approx(0.0, abs=0.01)
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("weight", ["leak_weight", "correlation_weight"])
def test_descending_a_penalty_lowers_the_reported_measure(weight):
    x = torch.rand(48, 12, generator=torch.Generator().manual_seed(4))
    own = normal(48, 12, seed=5)
    defence = plus(**{weight: 1.0})
    mix = torch.eye(12).requires_grad_()

    def features():
        return ((x @ mix) + 0.1 * own).reshape(48, 12, 1, 1)

    before = distance_correlation_u(x.numpy(), features().detach().numpy())
    for _ in range(40):
        penalty = defence.penalty(batch_of(x.reshape(48, 12, 1, 1), features()))
        (gradient,) = torch.autograd.grad(penalty, [mix])
        mix = (mix - 0.5 * gradient).detach().requires_grad_()
    assert distance_correlation_u(x.numpy(), features().detach().numpy()) < 0.8 * before


def test_distance_correlation_is_the_reported_measure():
    x, z = torch.rand(17, 2, 4, 4), normal(17, 3, 2, 2)
    expected = distance_correlation_u(x.numpy(), z.numpy())
    assert float(unbiased_distance_correlation(x, z)) == pytest.approx(expected, abs=1e-4)


# The defence as a whole


def test_penalty_is_the_weighted_sum_on_released_features():
    x, z = torch.rand(9, 1, 8, 8), normal(9, 3, 4, 4)
    defence = plus(leak_weight=2.0, correlation_weight=0.5, grid=2)
    pooled = z.reshape(9, 3, 2, 2, 2, 2).mean(dim=(3, 5))
    expected = 2.0 * decoder_leak(x, pooled) + 0.5 * unbiased_distance_correlation(x, pooled)
    torch.testing.assert_close(defence.penalty(batch_of(x, z)), expected)
    assert plus(leak_weight=0.0, correlation_weight=0.0).penalty(batch_of(x, z)) is None
    assert defence.penalty(batch_of(x[:3], z[:3])) is None


def test_release_repeats_cells_and_noise_has_the_stated_strength():
    z = normal(6, 3, 8, 8)
    coarse = plus(grid=2).release(z, torch.Generator())
    expected = z.reshape(6, 3, 2, 4, 2, 4).mean(dim=(3, 5))
    torch.testing.assert_close(coarse[:, :, ::4, ::4], expected)
    assert torch.equal(coarse[:, :, 0, 0], coarse[:, :, 3, 3])
    defence = plus(noise=2.0)
    many = torch.stack(
        [defence.release(z, torch.Generator().manual_seed(seed)) for seed in range(200)]
    )
    assert float(many.std(dim=0).mean()) == pytest.approx(2.0, rel=0.02)
    clean = many.mean(dim=0)
    assert float(clean.square().mean()) == pytest.approx(1.0 + 4.0 / 200, rel=0.05)
    # Larger features do not have less noise.
    louder = defence.release(50.0 * z, torch.Generator().manual_seed(0))
    torch.testing.assert_close(louder, many[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("front_end", FRONT_ENDS.names())
def test_penalties_reach_every_front_end(front_end):
    model = FRONT_ENDS.create(front_end, {}, image_shape=(3, 32, 32))
    defence = plus(leak_weight=1.0, correlation_weight=1.0)
    x = torch.rand(6, 3, 32, 32)
    defence.penalty(batch_of(x, model(defence.view(x)))).backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 4}, r"grid: 4 cells per axis, features of \(64, 2, 2\)"),
        ({"hidden_frequencies": 16}, r"hidden_frequencies: 16 of images of \(1, 16, 16\)"),
    ],
)
def test_options_that_remove_everything_are_refused_with_a_reason(options, message):
    side = 16 if "hidden_frequencies" in options else 32
    device_spec = make_spec("cnn", {"cut": 4, "width": 8}, "siftfunnel_plus", options)
    with pytest.raises(ValueError, match=message):
        replace(device_spec, image_shape=(1, side, side)).build()


def test_the_view_counts_in_the_device_s_costs():
    def macs(**options):
        device_spec = make_spec("cnn", {"width": 8}, "siftfunnel_plus", options)
        return layer_stats(device_spec.build().on_device(), device_spec.image_shape).macs

    # Two thin products there and two back, of one 32x32 channel and 3 frequencies.
    assert macs(hidden_frequencies=3) - macs(hidden_frequencies=0) == 2 * (3 * 32 * 32 + 3 * 3 * 32)


@pytest.mark.parametrize("wrapper", ["cem", "quantisation", "top_k"])
def test_defences_on_top_keep_the_view(wrapper):
    x = torch.rand(3, 1, 32, 32)
    on_top = DEFENCES.create(wrapper, {"base": {"name": "siftfunnel_plus"}})
    torch.testing.assert_close(on_top.view(x), plus().view(x))
    assert on_top.changes_view
