"""CEM and MID against closed forms."""

import math

import pytest
import torch
from small import make_batch

from clients.defences.cem import information_bound
from testbed.core.registries import DEFENCES


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_bound_of_one_gaussian_is_its_channel_capacity():
    # One class, independent features of variance 4 and 9, noise of variance 1: the mutual
    # information of a Gaussian with itself plus noise is 1/2 log(1 + 4) + 1/2 log(1 + 9).
    z = torch.randn(40_000, 2, generator=stream()) * torch.tensor([2.0, 3.0])
    found = information_bound(z, torch.zeros(40_000, dtype=torch.int64), 1.0)
    assert float(found) == pytest.approx(0.5 * math.log(5.0) + 0.5 * math.log(10.0), rel=0.01)


def test_the_bound_by_hand_on_a_small_mixture():
    # Class 0: values 0 and 2, variance 2; class 1: three values 5, 6, 7, variance 1; a class of
    # one image each: 8 and 12, variance 8. Noise variance 2.
    z = torch.tensor([[0.0], [5.0], [2.0], [6.0], [8.0], [7.0], [12.0]])
    labels = torch.tensor([0, 1, 0, 1, 2, 1, 3])
    expected = sum(
        share * (0.5 * math.log(1.0 + variance / 2.0) - math.log(share))
        for share, variance in ((2 / 7, 2.0), (3 / 7, 1.0), (2 / 7, 8.0))
    )
    assert float(information_bound(z, labels, 2.0)) == pytest.approx(expected, rel=1e-6)


def test_a_single_image_of_a_class_gets_the_variance_of_the_batch():
    z = torch.tensor([[0.0], [2.0], [4.0]])
    found = information_bound(z, torch.tensor([0, 0, 1]), 1.0)
    expected = (2 / 3) * (0.5 * math.log(3.0) - math.log(2 / 3))
    expected += (1 / 3) * (0.5 * math.log(5.0) - math.log(1 / 3))
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_the_bound_is_above_the_information_of_a_known_mixture():
    # Two classes at -3 and 3 with variance 1, noise variance 1: I(z; z + noise) is the entropy of
    # a mixture of two Gaussians of variance 2, by quadrature, minus that of the noise.
    classes = torch.arange(20_000) % 2
    z = torch.randn(20_000, 1, generator=stream()) + (6.0 * classes[:, None] - 3.0)
    grid = torch.linspace(-20.0, 20.0, 20_001, dtype=torch.float64)
    density = sum(
        0.5 * torch.exp(-((grid - mean) ** 2) / 4.0) / math.sqrt(4.0 * math.pi)
        for mean in (-3.0, 3.0)
    )
    entropy = -torch.trapezoid(density * density.clamp_min(1e-300).log(), grid)
    information = float(entropy) - 0.5 * math.log(2.0 * math.pi * math.e)
    bound = float(information_bound(z, classes, 1.0))
    assert information < bound < information + 0.1


def test_cem_adds_its_noise_before_its_base_and_its_term_to_the_base_penalty():
    options = {"weight": 0.7, "scale": 0.3, "base": {"name": "nopeek", "alpha": 2.0}}
    defence = DEFENCES.create("cem", options)
    x, z = torch.rand(8, 1, 4, 4), torch.randn(8, 3, 4, 4)
    labels = torch.arange(8) % 3
    batch = make_batch(x, z, labels=labels)
    base = DEFENCES.create("nopeek", {"alpha": 2.0}).penalty(batch)
    own = 0.7 * information_bound(z, labels, 0.09) / 48
    torch.testing.assert_close(defence.penalty(batch), base + own)
    noise = defence.release(z.repeat(500, 1, 1, 1), stream()) - z.repeat(500, 1, 1, 1)
    assert float(noise.std()) == pytest.approx(0.3, rel=0.01)
    rounded = DEFENCES.create("cem", {"base": {"name": "quantisation", "bits": 2}})
    assert len(torch.unique(rounded.release(z[:1], stream()))) <= 4


def test_descending_the_bound_lowers_the_variance_within_classes():
    labels = torch.arange(12) % 3
    z = torch.randn(12, 4, generator=stream()).requires_grad_()
    before = z.detach().clone()
    for _ in range(50):
        (gradient,) = torch.autograd.grad(information_bound(z, labels, 0.01), z)
        z = (z - 0.05 * gradient).detach().requires_grad_()
    for label in range(3):
        mine = labels == label
        assert (z[mine].var(dim=0) < before[mine].var(dim=0)).all()


def built_mid(**options):
    defence = DEFENCES.create("mid", options)
    defence.build((1, 16, 16), (3, 4, 4), 10)
    return defence


def test_mid_starts_at_the_features_plus_its_initial_noise():
    defence = built_mid(initial_scale=0.25)
    z = torch.randn(1, 3, 4, 4).repeat(4000, 1, 1, 1)
    noise = defence.release(z, stream()) - z
    assert float(noise.std()) == pytest.approx(0.25, rel=0.01)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.005)


def test_mid_rate_is_the_divergence_from_the_standard_normal():
    defence = built_mid(beta=0.4)
    with torch.no_grad():
        defence.release_layers.weight.normal_(generator=stream())
        defence.release_layers.bias.normal_(generator=stream(1))
    z = torch.randn(5, 3, 4, 4)
    mean, log_variance = defence.release_layers(z)
    encoder = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(encoder, prior).mean()
    torch.testing.assert_close(
        defence.penalty(make_batch(torch.rand(5, 1, 16, 16), z)), 0.4 * expected
    )


def test_mid_and_vib_agree_for_an_identity_encoder():
    mid, vib = built_mid(initial_scale=0.6), DEFENCES.create("vib", {"scale": 0.6})
    z = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(mid.rate(z), vib.rate(z))
    torch.testing.assert_close(mid.release(z, stream(4)), vib.release(z, stream(4)))
