"""The contract of every registered defence, tested on every registered front-end."""

import functools

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from small import make_batch, make_spec

from clients.deployed import DeployedFrontEnd
from clients.device_spec import ADVERSARY, deployable
from clients.local_training import LocalTraining
from testbed.core.errors import UserError
from testbed.core.registries import DEFENCES, FRONT_ENDS
from testbed.scenario.components import Component
from testbed.scenario.loading import validate_scenario
from testbed.wire.encoding import decode

NAMES = DEFENCES.names()
ON_A_BASE = [
    (name, base)
    for name in NAMES
    if "base" in DEFENCES.entry(name).options.model_fields
    for base in NAMES
    if base != name and "base" not in DEFENCES.entry(base).options.model_fields
]


@functools.cache
def built(front_end_name, name):
    return make_spec(front_end_name, {}, defence=name).build()


def weights_of(model):
    parameters, statistics = model.initial_weights()
    return {
        key: value.requires_grad_(key in parameters)
        for key, value in (parameters | statistics).items()
    }


def with_gradients(weights):
    return [key for key, value in weights.items() if value.grad is not None and value.grad.any()]


def train_adversary(model, weights, batch, steps=60):
    """Train the adversary on the batch: an untrained one may leave the penalty at zero."""
    own = {key: value for key, value in weights.items() if key.startswith(ADVERSARY)}
    optimiser = torch.optim.Adam(own.values(), 0.005)
    for _ in range(steps):
        optimiser.zero_grad()
        model.with_weights(weights, lambda: model.defence.adversary_loss(batch)).backward()
        optimiser.step()
        if model.with_weights(weights, lambda: model.defence.penalty(batch)) > 0.1:
            break


@pytest.mark.parametrize("name", NAMES)
def test_targets_are_distributions_with_the_true_class_most_likely(name):
    labels = torch.tensor([0, 3, 9, 3])
    targets = DEFENCES.create(name, {}).targets(labels, 10)
    assert targets.shape == (4, 10)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))
    assert (targets >= 0).all()
    assert targets.argmax(dim=1).tolist() == labels.tolist()


@pytest.mark.parametrize("front_end_name", FRONT_ENDS.names())
@pytest.mark.parametrize("name", NAMES)
def test_release_keeps_the_shape_repeats_under_its_seed_and_passes_gradients(name, front_end_name):
    model = built(front_end_name, name)
    weights, x = weights_of(model), torch.rand(4, 1, 32, 32)
    z, first, _ = model.features(weights, x, torch.Generator().manual_seed(3))
    _, again, _ = model.features(weights, x, torch.Generator().manual_seed(3))
    assert z.shape[1:] == model.front_end.feature_shape
    assert first.shape == z.shape
    assert torch.equal(first, again)
    first.square().sum().backward()
    reached = with_gradients(weights)
    assert any(not key.startswith("defence.") for key in reached)
    assert not any(key.startswith(ADVERSARY) for key in reached)


@pytest.mark.parametrize("front_end_name", FRONT_ENDS.names())
@pytest.mark.parametrize("name", NAMES)
def test_penalty_is_a_finite_scalar_with_gradients_to_deployed_weights(name, front_end_name):
    model = built(front_end_name, name)
    # Uniform grey images, which a decoder learns in a few steps.
    x = torch.tensor([0.0, 0.2, 0.7, 1.0]).reshape(4, 1, 1, 1).repeat(1, 1, 32, 32)
    weights, labels = weights_of(model), torch.tensor([0, 0, 1, 2])
    z, released, pre = model.features(weights, x, torch.Generator().manual_seed(3))
    batch = make_batch(x, z, pre, labels, released)
    if model.defence.adversary is not None:
        seen = make_batch(x, z.detach(), pre, labels, released.detach())
        train_adversary(model, weights, seen)
        for value in weights.values():
            value.grad = None
    penalty = model.with_weights(weights, lambda: model.defence.penalty(batch))
    if penalty is None:
        return
    assert penalty.shape == ()
    assert torch.isfinite(penalty)
    penalty.backward()
    assert set(with_gradients(weights)) & set(deployable(weights))


@pytest.mark.parametrize("name", NAMES)
def test_a_repeated_forward_step_releases_and_trains_with_equal_bits(name, host_data):
    device_spec = make_spec(defence=name, options={"cut": 2, "width": 8})
    model = device_spec.build()
    parameters, statistics = model.initial_weights()
    kept, dropped = (
        LocalTraining(model, 1, 0, *host_data.training(1), parameters, statistics) for _ in range(2)
    )
    for step in range(2):
        released, _ = kept.forward(step)
        again, _ = dropped.forward(step)
        dropped.drop_graph()
        assert torch.equal(released, again)
        gradient = torch.full_like(released, 0.01)
        assert kept.backward(step, gradient) == dropped.backward(step, gradient)
    assert all(torch.equal(kept.parameters[key], dropped.parameters[key]) for key in parameters)
    moved = {key for key in parameters if not torch.equal(kept.parameters[key], parameters[key])}
    assert any(not key.startswith("defence.") for key in moved)
    for kind in ("defence.release.", ADVERSARY):
        own = {key for key in parameters if key.startswith(kind)}
        assert not own or own & moved


@pytest.mark.parametrize("name", NAMES)
def test_first_weights_depend_on_the_seed_alone(name):
    one, same, other = (
        make_spec(defence=name, seed=seed).build().initial_weights()[0] for seed in (5, 5, 6)
    )
    assert one.keys() == same.keys() == other.keys()
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", NAMES)
def test_decoding_gives_the_released_features(name):
    model = built("siftfunnel_cnn", name)
    weights, x = weights_of(model), torch.rand(5, 1, 32, 32)
    released = model.features(weights, x, torch.Generator().manual_seed(3))[1].detach()
    assert torch.equal(decode(model.defence.encode(released)), released)
    for index in range(2):  # and image by image, as requests travel
        one = released[index : index + 1]
        assert torch.equal(decode(model.defence.encode(one)), one)


def deployed(name, options=None):
    device_spec = make_spec(
        defence=name, options={"cut": 2, "width": 8}, defence_options=options or {}
    )
    parameters, statistics = device_spec.build().initial_weights()
    # Channels of different scales, as after training.
    generator = torch.Generator().manual_seed(1)
    scaled = {
        key: value * (0.5 + torch.rand(value.shape, generator=generator))
        for key, value in deployable(parameters).items()
    }
    return DeployedFrontEnd(
        device_spec,
        {key: value.numpy() for key, value in scaled.items()},
        {key: value.numpy() for key, value in statistics.items()},
    )


@pytest.mark.parametrize("name", NAMES)
def test_queries_return_what_devices_release(name):
    front_end = deployed(name)
    image = torch.randint(0, 256, (1, 1, 32, 32), generator=torch.Generator().manual_seed(2))
    x = image.numpy().astype(np.float32) / np.float32(255.0)
    draws = 60
    with torch.no_grad():
        sent = np.concatenate(
            [front_end.runner.request_features(image, 3, request) for request in range(draws)]
        )
        white_box = front_end.differentiable_query(torch.from_numpy(x), 7).numpy()
    sampled = np.concatenate([front_end.query(x, draw) for draw in range(draws)])
    assert np.array_equal(white_box, sampled[7:8])
    if np.array_equal(sent[0], sent[1]):  # not random: equal bits
        assert (sent == sent[0]).all()
        assert (sampled == sent[0]).all()
        return
    # The same distribution: of all values (Kolmogorov-Smirnov distance), and of each feature.
    assert ks_2samp(sent.ravel(), sampled.ravel()).statistic < 0.015
    error = np.sqrt((sent.var(axis=0) + sampled.var(axis=0)) / draws) + 1e-6
    assert np.sqrt(np.square((sent.mean(0) - sampled.mean(0)) / error).mean()) < 1.15
    assert sampled.std(axis=0).mean() == pytest.approx(sent.std(axis=0).mean(), rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_statistics_of_a_release_are_finite_numbers(name):
    front_end = deployed(name)
    x = torch.rand(12, 1, 32, 32)
    z, released = front_end.runner.before_and_after(x, torch.Generator().manual_seed(0))
    for label, value in front_end.runner.release_statistics(z, released).items():
        assert isinstance(value, float), label
        assert np.isfinite(value), label


@pytest.mark.parametrize("name", NAMES)
def test_wrong_options_are_refused_in_one_sentence(name, tiny):
    for option in DEFENCES.entry(name).options.model_fields:
        tiny["arms"][0]["defence"] = {"name": name, option: -1}
        with pytest.raises(UserError) as refused:
            validate_scenario(tiny, "scenario.yaml")
        text = str(refused.value)
        assert "\n" not in text
        assert f"defence.{option}" in text


@pytest.mark.parametrize(("name", "base"), ON_A_BASE)
def test_a_defence_on_top_of_another_trains_and_travels(name, base, host_data):
    plain = DEFENCES.options(base, {}).model_dump()
    device_spec = make_spec(
        defence=name,
        defence_options={"base": Component(name=base, options=plain).model_dump()},
        options={"cut": 2, "width": 8},
    )
    model = device_spec.build()
    local_training = LocalTraining(model, 1, 0, *host_data.training(1), *model.initial_weights())
    released, targets = local_training.forward(0)
    assert torch.equal(decode(model.defence.encode(released)), released)
    alone = make_spec(defence=base, options={"cut": 2, "width": 8}).build()
    labels = torch.arange(len(targets))
    assert torch.equal(model.defence.targets(labels, 10), alone.defence.targets(labels, 10))
    assert model.initial_weights()[0].keys() == alone.initial_weights()[0].keys()
    assert model.defence.task_weight == alone.defence.task_weight
    assert np.isfinite(local_training.backward(0, torch.full_like(released, 0.01)))


@pytest.mark.parametrize("name", sorted({name for name, _ in ON_A_BASE}))
def test_a_defence_on_top_of_itself_is_refused_with_the_reason(name, tiny):
    tiny["arms"][0]["defence"] = {"name": name, "base": name}
    with pytest.raises(UserError, match="has no further effect"):
        validate_scenario(tiny, "scenario.yaml")
