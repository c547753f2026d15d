"""Front-ends: published sizes, and the contract that every registered one keeps."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from testbed.core.registries import CLOUD_MODELS, FRONT_ENDS

# SiftFunnel and its victim CNN for 3-channel input: parameters, MACs at 64 and 32, bytes of z.
PUBLISHED = [
    ("cnn", {"cut": 1}, 1_920, (7.08, 1.77), (262_144, 65_536)),
    ("cnn", {"cut": 2}, 76_032, (82.58, 20.64), (131_072, 32_768)),
    ("cnn", {"cut": 3}, 371_712, (158.07, 39.52), (65_536, 16_384)),
    ("cnn", {"cut": 4}, 1_552_896, (233.57, 58.39), (32_768, 8_192)),
    ("siftfunnel_cnn", {}, 10_354, (10.32, 2.68), (12_288, 3_072)),
]


@pytest.mark.parametrize(("name", "options", "parameters", "macs_m", "z_bytes"), PUBLISHED)
@pytest.mark.parametrize("size", [64, 32])
def test_published_sizes(name, options, parameters, macs_m, z_bytes, size):
    front_end = FRONT_ENDS.create(name, options, image_shape=(3, size, size)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        z = front_end(torch.zeros(1, 3, size, size))
    which = 0 if size == 64 else 1
    assert sum(p.numel() for p in front_end.parameters()) == parameters
    assert round(counter.get_total_flops() / 2e6, 2) == macs_m[which]
    assert z.numel() * 4 == z_bytes[which]


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 32), (3, 64, 64)])
@pytest.mark.parametrize("name", FRONT_ENDS.names())
def test_contract(name, shape):
    front_end = FRONT_ENDS.create(name, {}, image_shape=shape)
    x = torch.rand(3, *shape)
    z = front_end(x)
    assert tuple(z.shape[1:]) == front_end.feature_shape
    cloud_name, options = front_end.cloud_model
    cloud = CLOUD_MODELS.create(
        cloud_name, options, feature_shape=front_end.feature_shape, num_classes=7
    )
    logits = cloud(z)
    assert logits.shape == (3, 7)
    logits.square().sum().backward()
    # The few hidden units of a squeeze-excitation may all be dead at the start, others not.
    assert all(p.grad is not None for p in front_end.parameters())
    assert bool(next(front_end.parameters()).grad.any())


@pytest.mark.parametrize("name", FRONT_ENDS.names())
def test_images_of_a_batch_do_not_mix_when_evaluating(name):
    front_end = FRONT_ENDS.create(name, {}, image_shape=(1, 32, 32)).eval()
    x = torch.rand(4, 1, 32, 32)
    with torch.no_grad():
        together, alone = front_end(x), front_end(x[1:2])
    torch.testing.assert_close(together[1:2], alone)
