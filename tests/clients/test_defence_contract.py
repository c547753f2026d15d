"""The contract that every registered defence keeps, tried on every registered front-end."""

import functools

import pytest
import torch
from small import make_batch, make_program

from clients.session import TrainingSession
from testbed.core.registries import DEFENCES, FRONT_ENDS


@functools.cache
def built(front_end_name):
    return FRONT_ENDS.create(front_end_name, {}, image_shape=(1, 32, 32))


def features_of(front_end_name):
    front_end = built(front_end_name)
    front_end.zero_grad(set_to_none=True)
    return front_end, torch.rand(4, 1, 32, 32)


@pytest.mark.parametrize("name", DEFENCES.names())
def test_targets_are_distributions_with_the_true_class_on_top(name):
    labels = torch.tensor([0, 3, 9, 3])
    targets = DEFENCES.create(name, {}).targets(labels, 10)
    assert targets.shape == (4, 10)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))
    assert (targets >= 0).all()
    assert targets.argmax(dim=1).tolist() == labels.tolist()


@pytest.mark.parametrize("front_end_name", FRONT_ENDS.names())
@pytest.mark.parametrize("name", DEFENCES.names())
def test_release_keeps_the_shape_repeats_under_its_seed_and_passes_gradients(name, front_end_name):
    front_end, x = features_of(front_end_name)
    defence = DEFENCES.create(name, {})
    z = front_end(x)
    first = defence.release(z, torch.Generator().manual_seed(3))
    again = defence.release(z, torch.Generator().manual_seed(3))
    assert first.shape == z.shape
    assert torch.equal(first, again)
    first.square().sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in front_end.parameters())


@pytest.mark.parametrize("front_end_name", FRONT_ENDS.names())
@pytest.mark.parametrize("name", DEFENCES.names())
def test_penalty_is_a_finite_scalar_that_reaches_the_front_end(name, front_end_name):
    front_end, x = features_of(front_end_name)
    penalty = DEFENCES.create(name, {}).penalty(make_batch(x, front_end(x)))
    if penalty is None:
        return
    assert penalty.shape == ()
    assert torch.isfinite(penalty)
    penalty.backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in front_end.parameters())


@pytest.mark.parametrize("name", DEFENCES.names())
def test_a_repeated_forward_step_releases_and_trains_with_equal_bits(name, host_data):
    program = make_program(defence=name, options={"cut": 2, "width": 8})
    model = program.build()
    parameters, statistics = model.initial_weights()
    kept, dropped = (
        TrainingSession(model, 1, 0, *host_data.training(1), parameters, statistics)
        for _ in range(2)
    )
    for step in range(2):
        released, _ = kept.forward(step)
        again, _ = dropped.forward(step)
        dropped.drop_graph()
        assert torch.equal(released, again)
        gradient = torch.full_like(released, 0.01)
        assert kept.backward(step, gradient) == dropped.backward(step, gradient)
    assert all(torch.equal(kept.parameters[key], dropped.parameters[key]) for key in parameters)
    assert any(not torch.equal(kept.parameters[key], parameters[key]) for key in parameters)
