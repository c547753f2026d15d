"""Shredder, DISCO and adversarial decoders against their formulas, and adversarial training."""

import numpy as np
import pytest
import torch
from small import make_batch, make_spec

from clients.defences.inversion_decoder import standardised
from clients.defences.noise import bound_power
from clients.device_spec import ADVERSARY
from clients.local_training import LocalTraining
from testbed.core.errors import UserError
from testbed.core.registries import DEFENCES
from testbed.engine.hosts.host import HostData
from testbed.engine.setting.models import arm_models
from testbed.engine.setting.run_context import read_run_inputs
from testbed.scenario.loading import validate_scenario
from testbed.scenario.training import EdgeOptimiserSection

SHAPES = ((1, 16, 16), (6, 4, 4), 10)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def built(name, **options):
    defence = DEFENCES.create(name, options)
    defence.build(*SHAPES)
    return defence


def test_shredder_noise_has_the_learned_location_and_scale():
    defence = built("shredder")
    with torch.no_grad():
        defence.release_layers.location.copy_(torch.linspace(-2.0, 2.0, 96).reshape(6, 4, 4))
        defence.release_layers.log_scale.copy_(torch.linspace(-2.0, 0.5, 96).reshape(6, 4, 4))
    z = 0.1 * torch.randn(1, 6, 4, 4).repeat(20_000, 1, 1, 1)
    noise = (defence.release(z, stream()) - z).double()
    scale = defence.release_layers.log_scale.exp().double()
    # Laplace: mean at its location, E|n - location| = scale, variance 2 scale^2.
    location = defence.release_layers.location.double()
    assert ((noise.mean(dim=0) - location).abs() < 0.05 * scale).all()
    torch.testing.assert_close((noise - location).abs().mean(dim=0), scale, rtol=0.05, atol=0.0)
    torch.testing.assert_close(noise.var(dim=0), 2 * scale.square(), rtol=0.12, atol=0.0)


def test_shredder_rewards_the_magnitude_of_the_noise_up_to_its_target():
    z, x = torch.randn(3, 6, 4, 4), torch.rand(3, 1, 16, 16)
    defence = built("shredder", weight=0.5, target=1.5, bound=2.0)
    bounded = bound_power(z, 2.0)
    small, large = torch.full_like(z, -0.4), torch.full_like(z, 7.0)
    small_batch = make_batch(x, z, released=bounded + small)
    assert float(defence.penalty(small_batch)) == pytest.approx(-0.5 * 0.4, rel=1e-5)
    large_batch = make_batch(x, z, released=bounded + large)
    assert float(defence.penalty(large_batch)) == pytest.approx(-0.5 * 1.5)


def test_disco_drops_the_channels_of_the_lowest_scores():
    defence = built("disco", pruned_share=1 / 3)
    z = torch.randn(5, 6, 4, 4)
    released = defence.release(z, stream())
    scores = defence.release_layers(z)
    for image in range(5):
        order = scores[image].argsort(descending=True).tolist()
        assert torch.equal(released[image, order[:4]], z[image, order[:4]])
        assert not released[image, order[4:]].any()


def test_disco_scores_get_the_gradient_of_a_soft_mask():
    defence = built("disco")
    z = torch.rand(2, 6, 4, 4) + 0.5
    defence.release(z, stream()).sum().backward()
    found = [p.grad.clone() for p in defence.release_layers.parameters()]
    defence.release_layers.zero_grad()
    soft = torch.sigmoid(defence.release_layers(z))
    (soft * z.sum(dim=(2, 3))).sum().backward()
    for one, other in zip(found, defence.release_layers.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-4, atol=1e-6)


def test_disco_refuses_a_share_that_drops_nothing():
    with pytest.raises(ValueError, match="at least one channel must be dropped"):
        built("disco", pruned_share=0.05)


class Fixed(torch.nn.Module):
    """A decoder that always returns the same images."""

    def __init__(self, images):
        super().__init__()
        self.images = images

    def forward(self, features):
        return self.images


def test_the_adversarial_penalty_is_one_for_the_image_and_zero_for_its_mean():
    x, z = torch.rand(4, 1, 16, 16), torch.randn(4, 6, 4, 4)
    defence = built("adversarial_decoder", weight=3.0)
    mean = x.mean(dim=0, keepdim=True).expand_as(x)
    for image, expected in ((x, 3.0), (mean, 0.0), (1.0 - x, 0.0), (0.5 * x + 0.5 * mean, 2.25)):
        defence.adversary = Fixed(image)
        assert float(defence.penalty(make_batch(x, z))) == pytest.approx(expected, abs=1e-5)
    defence.adversary = Fixed(mean)
    loss = defence.adversary_loss(make_batch(x, z))
    torch.testing.assert_close(loss, (mean - x).square().mean())


def test_shrinking_or_shifting_features_does_not_fool_the_decoder():
    z = torch.randn(8, 3, 4, 4)
    changed = 1e-3 * z * torch.tensor([1.0, -5.0, 20.0])[:, None, None] + torch.rand(3, 4, 4)
    expected = standardised(z) * torch.tensor([1.0, -1.0, 1.0])[:, None, None]
    torch.testing.assert_close(standardised(changed), expected, rtol=1e-2, atol=1e-2)
    assert not standardised(torch.ones(4, 3, 2, 2)).any()


def local_training(data, method="sgd", batch_size=4, **options):
    device_spec = make_spec(
        batch_size=batch_size,
        defence="adversarial_decoder",
        defence_options=options,
        options={"cut": 2, "width": 8},
        optimiser=EdgeOptimiserSection(method=method, learning_rate=0.05),
    )
    model = device_spec.build()
    return LocalTraining(model, 1, 0, *data.training(1), *model.initial_weights())


def adversary_loss(local_training, batch):
    weights = {**local_training.parameters, **local_training.statistics}
    defence = local_training._model.defence
    return local_training._model.with_weights(weights, lambda: defence.adversary_loss(batch))


def test_adam_updates_the_adversary_on_its_own_loss_only(host_data):
    one = local_training(host_data, decoder_learning_rate=0.01)
    reference = local_training(host_data)
    own = {n: p for n, p in reference.parameters.items() if n.startswith(ADVERSARY)}
    optimiser = torch.optim.Adam(own.values(), 0.01)
    for step in range(3):
        released, _ = one.forward(step)
        reference.forward(step)
        # Both adversaries see the features of the same front-end.
        batch = reference._graph.batch
        seen = make_batch(batch.x, batch.z.detach(), released=batch.released.detach())
        optimiser.zero_grad()
        adversary_loss(reference, seen).backward()
        optimiser.step()
        one.backward(step, torch.zeros_like(released))
        with torch.no_grad():
            for name, value in reference.parameters.items():
                if name not in own:
                    value.copy_(one.parameters[name])
        for name in reference.statistics:
            reference.statistics[name].copy_(one.statistics[name])
    for name, value in own.items():
        torch.testing.assert_close(one.parameters[name], value, rtol=1e-4, atol=1e-6)


def test_adversarial_training_increases_the_decoder_error():
    """With the penalty the decoder's error is several times what it is without."""
    blocks = np.random.default_rng(0).integers(0, 256, (32, 1, 4, 4), dtype=np.uint8)
    images = blocks.repeat(8, axis=2).repeat(8, axis=3)
    data = HostData(images, np.zeros(32, dtype=np.int64), [np.arange(16), np.arange(16, 32)])

    def error(weight):
        """Return the decoder's error after 50 steps, as a share of the mean image's."""
        trained = local_training(data, "sgd", 16, weight=weight, decoder_learning_rate=0.01)
        for step in range(50):
            released, _ = trained.forward(step)
            value = trained.backward(step, torch.zeros_like(released))
        return 1.0 - value / weight

    undefended = error(1e-6)
    assert undefended < 0.1
    assert error(3.0) > 2.0 * undefended


def test_an_impossible_combination_is_refused_with_its_reason(tiny):
    tiny["arms"] = [
        {
            "name": "odd",
            "front_end": {"name": "cnn", "cut": 1, "width": 8},
            "defence": {"name": "disco", "pruned_share": 0.01},
        },
        {
            "name": "no-funnel",
            "front_end": {"name": "cnn", "cut": 1, "width": 8},
            "defence": {"name": "cem", "base": {"name": "siftfunnel", "regularise": "pre_funnel"}},
        },
    ]
    inputs = read_run_inputs(validate_scenario(tiny, "test"))
    reasons = ("at least one channel must be dropped", "needs a front-end with a funnel")
    for arm, reason in zip(inputs.scenario.arms, reasons, strict=True):
        with pytest.raises(UserError, match=reason) as refused:
            arm_models(inputs, arm)
        assert "\n" not in str(refused.value)
