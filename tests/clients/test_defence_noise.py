"""Noise, dropout and the information bottleneck against their formulas on small cases."""

import math

import numpy as np
import pytest
import torch
from small import make_batch

from clients.defences.noise import bound_power, signal_to_noise_db
from testbed.core.registries import DEFENCES

DRAWS = 200_000


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def test_bounding_is_clipping_to_the_l2_norm():
    z = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    # Root mean squares of 5 / sqrt(2), 0.5 / sqrt(2) and 0, against a bound of 1.
    expected = torch.tensor([[0.6 * 2**0.5, 0.8 * 2**0.5], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(bound_power(z, 1.0), expected)


def test_bounding_has_the_clips_gradients_also_at_zero():
    z = (
        torch.randn(3, 2, 2, 2, dtype=torch.float64)
        * torch.tensor([4.0, 0.1, 0.0])[:, None, None, None]
    )
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: bound_power(t, 0.7), (z,))


def test_signal_to_noise_ratio_by_hand():
    # Deviations of +-2 about a mean of 7: power 4; noise power 0.25; 10 log10(16).
    signal = torch.tensor([[5.0], [9.0]])
    assert signal_to_noise_db(signal, 0.25) == pytest.approx(10 * math.log10(16.0))
    assert signal_to_noise_db(torch.ones(4, 3), 0.25) == -math.inf
    assert signal_to_noise_db(signal, 0.0) == math.inf


@pytest.mark.parametrize("name", ["gaussian_noise", "laplace_noise"])
def test_the_features_cannot_outgrow_the_noise(name):
    defence = DEFENCES.create(name, {"scale": 0.5, "bound": 2.0})
    z = torch.randn(64, 3, 4, 4)
    small, large = defence.signal_to_noise_db(z), defence.signal_to_noise_db(1e6 * z)
    ceiling = defence.largest_signal_to_noise_db()
    assert small < large < ceiling
    assert large == pytest.approx(ceiling, abs=0.2)  # zero-mean features nearly reach it
    released = defence.release(1e6 * z, stream())
    noise = released - bound_power(1e6 * z, 2.0)
    measured = 20 * math.log10(2.0 / float(noise.std()))
    assert measured == pytest.approx(ceiling, abs=0.2)


MOMENTS = [
    # Variance and mean absolute value of the noise at scale 0.3, and its fourth moment.
    ("gaussian_noise", 0.3**2, 0.3 * math.sqrt(2 / math.pi), 3 * 0.3**4),
    ("laplace_noise", 2 * 0.3**2, 0.3, 24 * 0.3**4),
]


@pytest.mark.parametrize(("name", "variance", "absolute", "fourth"), MOMENTS)
def test_noise_has_the_moments_of_its_distribution(name, variance, absolute, fourth):
    defence = DEFENCES.create(name, {"scale": 0.3})
    noise = defence.release(torch.zeros(1, DRAWS), stream()).double()
    assert float(noise.mean()) == pytest.approx(0.0, abs=5 * math.sqrt(variance / DRAWS))
    assert float(noise.square().mean()) == pytest.approx(variance, rel=0.02)
    assert defence.noise_std**2 == pytest.approx(variance)
    assert float(noise.abs().mean()) == pytest.approx(absolute, rel=0.01)
    assert float(noise.pow(4).mean()) == pytest.approx(fourth, rel=0.08)


@pytest.mark.parametrize("name", ["gaussian_noise", "laplace_noise", "feature_dropout", "vib"])
def test_releases_differ_between_seeds_and_images(name):
    defence = DEFENCES.create(name, {})
    z = torch.ones(2, 4, 3, 3)
    first, other = defence.release(z, stream(1)), defence.release(z, stream(2))
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


def test_gradient_of_unclipped_noise_is_the_identity():
    z = torch.full((2, 3, 2, 2), 0.1, requires_grad=True)
    DEFENCES.create("gaussian_noise", {}).release(z, stream()).sum().backward()
    torch.testing.assert_close(z.grad, torch.ones_like(z))


@pytest.mark.parametrize("probability", [0.25, 0.9])
def test_dropout_keeps_the_expectation_and_drops_the_share(probability):
    defence = DEFENCES.create("feature_dropout", {"probability": probability})
    z = torch.full((4, DRAWS // 400, 10, 10), 3.0, requires_grad=True)
    released = defence.release(z, stream())
    kept = released != 0
    assert float(kept.float().mean()) == pytest.approx(1 - probability, abs=0.005)
    torch.testing.assert_close(
        released[kept], torch.full_like(released[kept], 3 / (1 - probability))
    )
    released.sum().backward()
    torch.testing.assert_close(z.grad, kept.float() / (1 - probability))


def test_channel_dropout_drops_whole_channels_per_image():
    defence = DEFENCES.create("feature_dropout", {"unit": "channel"})
    dropped = (defence.release(torch.ones(8, 16, 3, 3), stream()) == 0).flatten(2)
    assert torch.equal(dropped.all(dim=2), dropped.any(dim=2))
    assert not torch.equal(dropped[0], dropped[1])


def test_vib_rate_is_the_divergence_of_gaussians():
    defence = DEFENCES.create("vib", {"beta": 0.2, "scale": 0.5})
    z = torch.randn(3, 2, 2, 2)
    encoder = torch.distributions.Normal(z, 0.5)
    prior = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(encoder, prior).mean()
    torch.testing.assert_close(
        defence.penalty(make_batch(torch.rand(3, 1, 4, 4), z)), 0.2 * expected
    )


def test_vib_rate_bounds_the_information_of_a_gaussian_channel():
    # Features N(0, s^2) over noise 0.5: I = 1/2 ln(1 + s^2 / 0.25) nats each, the rate is above it
    # and meets it where the released features follow the prior, at s^2 + 0.25 = 1.
    defence = DEFENCES.create("vib", {"scale": 0.5})
    normal = torch.randn(DRAWS, generator=stream()).double()
    for std in (0.2, math.sqrt(0.75), 2.0):
        rate = float(defence.rate(std * (normal - normal.mean()) / normal.std()))
        information = 0.5 * np.log1p(std**2 / 0.25)
        if std == math.sqrt(0.75):
            assert rate == pytest.approx(information, rel=1e-4)
        else:
            assert rate > 1.05 * information


def test_vib_releases_a_sample_of_the_encoder():
    defence = DEFENCES.create("vib", {"scale": 0.5})
    z = torch.full((1, DRAWS), 2.0)
    released = defence.release(z, stream()).double()
    assert float(released.mean()) == pytest.approx(2.0, abs=0.01)
    assert float(released.std()) == pytest.approx(0.5, rel=0.01)
