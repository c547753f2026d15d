"""A device's training: SGD against torch.optim, and bits that do not depend on kept activations."""

import pytest
import torch
from small import make_deployed, make_spec

from clients.local_training import LocalTraining
from testbed.scenario.training import EdgeOptimiserSection


def new_local_training(device_spec, host_data, device=1, server_round=2, **extra):
    model = device_spec.build()
    parameters, statistics = model.initial_weights()
    images, labels = host_data.training(device)
    return LocalTraining(
        model, device, server_round, images, labels, parameters, statistics, **extra
    )


def weights_equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_sign_moves_every_weight_by_the_learning_rate(host_data):
    """Closed form, signSGD of Bernstein et al. (arXiv 1802.04434): the size has no effect."""
    optimiser = EdgeOptimiserSection(method="sign", learning_rate=0.003, clip_norm=None)
    after = []
    for size in (1.0, 1e-6):
        local_training = new_local_training(make_spec(optimiser=optimiser), host_data)
        start = {name: value.detach().clone() for name, value in local_training.parameters.items()}
        z, _ = local_training.forward(0)
        local_training.backward(0, torch.randn(z.shape, generator=torch.manual_seed(0)) * size)
        moved = {n: value.detach() - start[n] for n, value in local_training.parameters.items()}
        steps = torch.cat([value.abs().flatten() for value in moved.values()])
        torch.testing.assert_close(steps, torch.full_like(steps, 0.003), rtol=0, atol=1e-7)
        after.append(moved["blocks.0.0.weight"])
    assert torch.equal(*after)
    assert not local_training.travelling_moments()


OPTIMISERS = {
    "sgd": lambda leaves: torch.optim.SGD(leaves, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda leaves: torch.optim.Adam(leaves, lr=0.1, betas=(0.9, 0.99), weight_decay=0.01),
}


@pytest.mark.parametrize("method", OPTIMISERS)
def test_steps_match_torch_optim(host_data, method):
    optimiser_section = EdgeOptimiserSection(
        method=method, learning_rate=0.1, second_beta=0.99, weight_decay=0.01, clip_norm=1.0
    )
    device_spec = make_spec(optimiser=optimiser_section)
    local_training = new_local_training(device_spec, host_data)
    reference = new_local_training(device_spec, host_data)
    leaves = list(reference.parameters.values())
    optimiser = OPTIMISERS[method](leaves)
    for step in range(3):
        z, _ = local_training.forward(step)
        gradient = torch.randn(z.shape, generator=torch.Generator().manual_seed(step))
        local_training.backward(step, gradient)
        reference.forward(step)
        graph = reference._graph
        optimiser.zero_grad()
        graph.batch.released.backward(gradient)
        torch.nn.utils.clip_grad_norm_(leaves, 1.0)
        optimiser.step()
    for name, value in local_training.parameters.items():
        torch.testing.assert_close(value, reference.parameters[name], rtol=1e-4, atol=1e-5)


def test_dropped_activations_give_the_same_bits(host_data):
    device_spec = make_spec(defence="siftfunnel", options={"cut": 2, "width": 8})
    kept, dropped = (
        new_local_training(device_spec, host_data),
        new_local_training(device_spec, host_data),
    )
    for step in range(4):
        z, targets = kept.forward(step)
        other, other_targets = dropped.forward(step)
        dropped.drop_graph()
        assert torch.equal(z, other)
        assert torch.equal(targets, other_targets)
        gradient = torch.full_like(z, 0.01)
        assert kept.backward(step, gradient) == dropped.backward(step, gradient)
    assert weights_equal(kept.parameters, dropped.parameters)
    assert weights_equal(kept.statistics, dropped.statistics)


def test_proximal_term_pulls_towards_the_start(host_data):
    def distance_after(mu):
        local_training = new_local_training(make_spec(), host_data, proximal_mu=mu)
        start = {name: value.detach().clone() for name, value in local_training.parameters.items()}
        for step in range(4):
            z, _ = local_training.forward(step)
            local_training.backward(step, torch.ones_like(z))
        return sum(
            float((value.detach() - start[name]).square().sum())
            for name, value in local_training.parameters.items()
        )

    assert distance_after(5.0) < 0.9 * distance_after(0.0)


def test_batches_pass_over_all_images_before_repeating(host_data):
    local_training = new_local_training(make_spec(batch_size=5), host_data)
    first = torch.cat([local_training._batch(step)[0] for step in range(2)])
    images, _ = host_data.training(1)
    expected = torch.from_numpy(images).float() / 255
    assert sorted(first.flatten(1).sum(1).tolist()) == sorted(expected.flatten(1).sum(1).tolist())
    again = torch.cat([local_training._batch(step)[0] for step in range(2, 4)])
    assert not torch.equal(first, again)


def test_statistics_are_the_mean_over_the_rounds_batches(host_data):
    # With fixed weights, two steps must leave the average of the two batches' statistics.
    device_spec = make_spec()
    one, two = (
        new_local_training(device_spec, host_data),
        new_local_training(device_spec, host_data),
    )
    one.forward(0)
    first = {name: value.clone() for name, value in one.statistics.items()}
    two.forward(0)
    two.forward(1)
    alone = new_local_training(device_spec, host_data)
    x, labels = alone._batch(1)
    alone._batch = lambda step: (x, labels)
    alone.forward(0)
    for name, value in two.statistics.items():
        torch.testing.assert_close(value, (first[name] + alone.statistics[name]) / 2)


def test_a_deployed_front_end_travels_without_its_module(host_data):
    import pickle

    import numpy as np

    noise = {"scale": 0.5, "bound": 1.0}
    deployed = make_deployed(defence="gaussian_noise", defence_options=noise)
    images = np.random.default_rng(0).random((20, 1, 32, 32), dtype=np.float32)
    images.setflags(write=False)
    first = deployed.query(images, draw=0)
    copy = pickle.loads(pickle.dumps(deployed))
    assert "runner" in vars(deployed)
    assert "runner" not in vars(copy)
    assert np.array_equal(copy.query(images, draw=0), first)
    assert not np.array_equal(deployed.query(images, draw=1), first)
    x = torch.tensor(images, requires_grad=True)
    deployed.differentiable_query(x, 0).sum().backward()
    assert bool(x.grad.any())
