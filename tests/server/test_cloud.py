"""The cloud's step: gradients per device, and a state that survives a checkpoint."""

import pytest
import torch
from torch.nn import functional

from server.cloud import Cloud
from server.entry_layers import TieredCloudModel
from testbed.core.registries import CLOUD_MODELS
from testbed.scenario.training import CloudOptimiserSection


def new_cloud(seed=0):
    torch.manual_seed(seed)
    model = CLOUD_MODELS.create(
        "cnn", {"cut": 2, "width": 8}, feature_shape=(16, 8, 8), num_classes=10
    )
    return Cloud(
        TieredCloudModel(model, [(16, 8, 8)], 10), CloudOptimiserSection(), seed=1, threads=1
    )


def batch(size, seed):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (size,), generator=rng)
    return torch.randn(size, 16, 8, 8, generator=rng), functional.one_hot(labels, 10).float()


def test_each_device_gets_the_gradient_of_its_own_mean_loss():
    cloud = new_cloud()
    cloud.model.trunk.layers[-1][2].p = 0.0  # the head's dropout
    (z1, t1), (z2, t2) = batch(3, 1), batch(7, 2)
    z = torch.cat([z1, z2]).requires_grad_()
    cloud.model.train()
    (cohort,) = torch.autograd.grad(
        functional.kl_div(
            functional.log_softmax(cloud.model(z), dim=1),
            torch.cat([t1, t2]),
            reduction="batchmean",
        ),
        z,
    )
    result = cloud.step([z1, z2], [t1, t2], 1, 0)
    torch.testing.assert_close(result.gradients[0], cohort[:3] * 10 / 3)
    torch.testing.assert_close(result.gradients[1], cohort[3:] * 10 / 7)
    assert result.loss > 0


def test_steps_lower_the_loss():
    cloud = new_cloud()
    z, targets = batch(32, 3)
    losses = [cloud.step([z], [targets], 1, step).loss for step in range(25)]
    assert losses[-1] < 0.5 * losses[0]


def test_state_restores_model_and_optimiser_exactly():
    one, other = new_cloud(0), new_cloud(9)
    z, targets = batch(8, 4)
    for step in range(3):
        one.step([z], [targets], 1, step)
    other.load_state(one.state())
    for step in range(3, 6):
        a, b = one.step([z], [targets], 2, step), other.step([z], [targets], 2, step)
        assert a.loss == b.loss
    assert torch.equal(one.answer(z), other.answer(z))


def test_answers_are_log_probabilities_for_any_chunks():
    cloud = new_cloud()
    z, _ = batch(70, 5)
    answers = cloud.answer(z)
    torch.testing.assert_close(answers.exp().sum(dim=1), torch.ones(70))
    torch.testing.assert_close(answers[65:], cloud.answer(z[65:]))


@pytest.mark.parametrize("threads", [1, 2])
def test_thread_setting_is_restored(threads):
    before = torch.get_num_threads()
    cloud = new_cloud()
    cloud.threads = threads
    cloud.answer(batch(2, 6)[0])
    assert torch.get_num_threads() == before
