"""Entry layers of the shared cloud model: features of every tier reach the trunk."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from server.cloud import Cloud
from server.entry_layers import TieredCloudModel, entry_layers
from testbed.core.registries import CLOUD_MODELS
from testbed.fleet.layer_stats import layer_stats
from testbed.scenario.training import CloudOptimiserSection

TRUNK = (16, 8, 8)
SHAPES = [(16, 8, 8), (8, 16, 16), (16, 32, 32), (32, 4, 4), (4, 8, 8), (6, 20, 20), (16, 2, 8)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_reaches_the_trunk(shape):
    layers = entry_layers(shape, TRUNK).train()
    assert layers(torch.randn(3, *shape)).shape == (3, *TRUNK)
    assert isinstance(layers, nn.Identity) == (shape == TRUNK)


def test_a_shallower_cut_gets_the_block_that_its_devices_lack():
    # conv 3x3 8 -> 16 with bias, and batch norm: the second block of the CNN
    assert (
        sum(p.numel() for p in entry_layers((8, 16, 16), TRUNK).parameters())
        == 9 * 8 * 16 + 16 + 32
    )


def new_cloud(shapes=(TRUNK, (8, 16, 16))):
    torch.manual_seed(0)
    trunk = CLOUD_MODELS.create("cnn", {"cut": 2, "width": 8}, feature_shape=TRUNK, num_classes=10)
    trunk.layers[-1][2].p = 0.0  # the head's dropout
    return Cloud(TieredCloudModel(trunk, shapes, 10), CloudOptimiserSection(), seed=1, threads=1)


def batch(size, shape, seed):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (size,), generator=rng)
    return torch.randn(size, *shape, generator=rng), functional.one_hot(labels, 10).float()


def test_gradients_of_mixed_tiers_come_back_in_the_devices_order():
    cloud = new_cloud()
    shapes = [(8, 16, 16), TRUNK, (8, 16, 16)]
    batches = [batch(size, shape, size) for size, shape in zip((3, 5, 2), shapes, strict=True)]
    model = cloud.model.train()
    leaves = [z.clone().requires_grad_() for z, _ in batches]
    # By hand: tier 0 first, then tier 1 as one batch, since batch norm sees a tier as a whole.
    entered = torch.cat([leaves[1], model.entry_layers[1](torch.cat([leaves[0], leaves[2]]))])
    wanted = torch.cat([batches[1][1], batches[0][1], batches[2][1]])
    logits = functional.log_softmax(model.trunk(entered), dim=1)
    functional.kl_div(logits, wanted, reduction="batchmean").backward()
    step = new_cloud().step([z for z, _ in batches], [t for _, t in batches], 1, 0, [1, 0, 1])
    for leaf, gradient, (z, _) in zip(leaves, step.gradients, batches, strict=True):
        assert gradient.shape == z.shape
        torch.testing.assert_close(gradient, leaf.grad * (10 / len(z)), rtol=1e-4, atol=1e-7)


def test_the_trunk_learns_from_every_tier_and_an_entry_only_from_its_own():
    cloud = new_cloud()
    before = {name: value.clone() for name, value in cloud.model.named_parameters()}
    z, targets = batch(4, TRUNK, 0)
    cloud.step([z], [targets], 1, 0, [0])
    after = dict(cloud.model.named_parameters())
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert any(name.startswith("trunk.") for name in changed)
    assert not any(name.startswith("entry_layers.1") for name in changed)


def test_features_of_the_wrong_shape_are_not_accepted():
    cloud = new_cloud()
    z, targets = batch(4, TRUNK, 0)
    assert cloud.accepts(z, targets, 0)
    assert not cloud.accepts(z, targets, 1)
    assert not cloud.accepts(z, targets[:, :3], 0)


def test_costs_of_a_tiers_path_count_its_entry_and_the_trunk():
    cloud = new_cloud()
    own = layer_stats(cloud.model.path(0), TRUNK)
    other = layer_stats(cloud.model.path(1), (8, 16, 16))
    assert other.params - own.params == 9 * 8 * 16 + 16 + 32
    assert other.macs - own.macs == 16 * 16 * 9 * 8 * 16
