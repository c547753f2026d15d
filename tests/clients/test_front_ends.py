"""Front-ends: published sizes, and the contract of every registered one."""

import pytest
import torch
from small import make_batch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from testbed.core.gating import composed_layers
from testbed.core.layers import BasicBlock, SummedConvs
from testbed.core.registries import CLOUD_MODELS, DEFENCES, FRONT_ENDS

# The SiftFunnel paper's edges, 3-channel input: parameters, MACs at 64 and 32, bytes of z at both.
PUBLISHED = [
    ("cnn", {"cut": 1}, 1_920, (7.08, 1.77), (262_144, 65_536)),
    ("cnn", {"cut": 2}, 76_032, (82.58, 20.64), (131_072, 32_768)),
    ("cnn", {"cut": 3}, 371_712, (158.07, 39.52), (65_536, 16_384)),
    ("cnn", {"cut": 4}, 1_552_896, (233.57, 58.39), (32_768, 8_192)),
    ("autoencoder_cnn", {}, 592_704, (214.70, 53.67), (65_536, 16_384)),
    ("siftfunnel_cnn", {}, 10_354, (10.32, 2.68), (12_288, 3_072)),
    ("resnet18", {"stages": 2}, 675_392, (1147.93, 286.98), (524_288, 131_072)),
    ("siftfunnel_resnet18", {}, 231_832, (241.79, 60.85), (24_576, 6_144)),
    ("vgg16", {"stages": 2}, 260_928, (384.57, 96.14), (131_072, 32_768)),
    ("siftfunnel_vgg16", {}, 300_574, (395.17, 98.99), (4_096, 1_024)),
]


@pytest.mark.parametrize(("name", "options", "parameters", "macs_m", "z_bytes"), PUBLISHED)
@pytest.mark.parametrize("size", [64, 32])
def test_published_sizes(name, options, parameters, macs_m, z_bytes, size):
    front_end = FRONT_ENDS.create(name, options, image_shape=(3, size, size)).eval()
    with composed_layers(), FlopCounterMode(display=False) as counter, torch.no_grad():
        z = front_end(torch.zeros(1, 3, size, size))
    which = 0 if size == 64 else 1
    assert count(front_end) == parameters
    assert round(counter.get_total_flops() / 2e6, 2) == macs_m[which]
    assert z.numel() * 4 == z_bytes[which]


NARROW = [
    *[("resnet18", {"stages": stages, "width": 8}) for stages in (1, 2, 3)],
    *[("vgg16", {"stages": stages, "width": 8}) for stages in (1, 2, 3, 4)],
    ("siftfunnel_resnet18", {"width": 16}),
    ("siftfunnel_vgg16", {"width": 16}),
    ("autoencoder_cnn", {"width": 8}),
]


def cloud_of(front_end, num_classes):
    name, options = front_end.cloud_model
    shape = front_end.feature_shape
    return CLOUD_MODELS.create(name, options, feature_shape=shape, num_classes=num_classes)


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_halves_of_resnet18_add_up_to_the_whole(stages):
    # The CIFAR-style ResNet-18 in 10 classes, as commonly published: 11,173,962 parameters.
    front_end = FRONT_ENDS.create("resnet18", {"stages": stages}, image_shape=(3, 32, 32))
    assert count(front_end) + count(cloud_of(front_end, 10)) == 11_173_962


@pytest.mark.parametrize("name", ["resnet18", "siftfunnel_resnet18"])
def test_released_head_of_resnet18(name):
    # 2,048 inputs at 64 x 64 against 512 of the global mean: 15,360 parameters more for 10 classes.
    clouds = {}
    for size in (32, 64):
        for head in ("global_mean", "released"):
            front_end = FRONT_ENDS.create(name, {"head": head}, image_shape=(3, size, size))
            clouds[size, head] = cloud_of(front_end, 10).eval()
    sizes = {key: count(cloud) for key, cloud in clouds.items()}
    assert sizes[64, "released"] - sizes[64, "global_mean"] == 15_360
    assert sizes[32, "released"] == sizes[32, "global_mean"] == sizes[64, "global_mean"]
    # One cell of 4 x 4 is the whole map of the last stage at 32 x 32.
    clouds[32, "released"].load_state_dict(
        dict(
            zip(
                clouds[32, "released"].state_dict(),
                clouds[32, "global_mean"].state_dict().values(),
                strict=True,
            )
        )
    )
    z = torch.randn(2, *front_end_shape(name, 32))
    with torch.no_grad():
        torch.testing.assert_close(clouds[32, "released"](z), clouds[32, "global_mean"](z))


def front_end_shape(name, size):
    return FRONT_ENDS.create(name, {}, image_shape=(3, size, size)).feature_shape


def test_released_head_refuses_images_without_a_whole_cell():
    front_end = FRONT_ENDS.create("resnet18", {"head": "released"}, image_shape=(3, 16, 16))
    with pytest.raises(ValueError, match="head: global_mean"):
        cloud_of(front_end, 10)


@pytest.mark.parametrize("name", ["siftfunnel_cnn", "siftfunnel_resnet18", "siftfunnel_vgg16"])
def test_pre_funnel_is_the_tensor_after_the_first_attention(name):
    # Triplet attention gates by values in (0, 1): without it, the tensor would be block 1's output.
    front_end = FRONT_ENDS.create(name, {}, image_shape=(3, 32, 32)).eval()
    kept = []
    front_end.pre_funnel().register_forward_hook(lambda module, inputs, output: kept.append(output))
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        front_end(x)
        block, excitation, triplet = *list(front_end.children())[:1], *front_end.attention
        expected = triplet(excitation(block(x)))
    torch.testing.assert_close(kept[0], expected)
    assert not torch.allclose(kept[0], block(x))


@pytest.mark.parametrize("stages", [1, 4])
def test_halves_of_vgg16_add_up_to_the_whole(stages):
    # Convolutions and BN of VGG16-BN as commonly published, and a 512-4096-4096-10 classifier.
    front_end = FRONT_ENDS.create("vgg16", {"stages": stages}, image_shape=(3, 32, 32))
    *convolutions, classifier = cloud_of(front_end, 10).layers
    assert count(front_end) + sum(count(stage) for stage in convolutions) == 14_723_136
    assert count(classifier) == 513 * 4096 + 4097 * 4096 + 4097 * 10
    dropouts = [layer.p for layer in classifier if isinstance(layer, torch.nn.Dropout)]
    assert dropouts == [0.3, 0.2]


@pytest.mark.parametrize("size", [33, 44])
@pytest.mark.parametrize(("name", "options"), NARROW)
def test_every_cut_works_at_other_widths_and_sizes(name, options, size):
    front_end = FRONT_ENDS.create(name, options, image_shape=(1, size, size))
    z = front_end(torch.rand(2, 1, size, size))
    assert tuple(z.shape[1:]) == front_end.feature_shape
    assert cloud_of(front_end, 3)(z).shape == (2, 3)


@pytest.mark.parametrize("name", ["vgg16", "siftfunnel_vgg16"])
def test_vgg16_refuses_images_that_are_too_small_for_its_pools(name):
    with pytest.raises(ValueError, match="at least 32 x 32"):
        FRONT_ENDS.create(name, {}, image_shape=(3, 28, 32))


@pytest.mark.parametrize("stride", [1, 2])
def test_basic_block_against_its_formula(stride):
    block = BasicBlock(4, 8 if stride == 2 else 4, stride).eval()
    for layer in block.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)

    def norm(x, layer):
        scaled = (x - layer.running_mean[:, None, None]) / (
            layer.running_var[:, None, None] + layer.eps
        ).sqrt()
        return scaled * layer.weight[:, None, None] + layer.bias[:, None, None]

    x = torch.randn(2, 4, 6, 6)
    inner = norm(
        functional.conv2d(x, block.first[0].weight, stride=stride, padding=1), block.first[1]
    )
    inner = functional.conv2d(inner.clamp_min(0), block.second[0].weight, padding=1)
    skip = x
    if stride == 2:
        skip = norm(functional.conv2d(x, block.shortcut[0].weight, stride=2), block.shortcut[1])
    expected = (norm(inner, block.second[1]) + skip).clamp_min(0)
    torch.testing.assert_close(block(x), expected)


def test_summed_convs_of_the_autoencoder_against_its_formula():
    unit, x = SummedConvs(3), torch.randn(2, 3, 5, 5)

    def conv(x, layer):
        return functional.conv2d(x, layer.weight, layer.bias, padding=1)

    inner = conv(x, unit.long[0])
    expected = conv(x, unit.short) + conv(inner * torch.sigmoid(inner), unit.long[2])
    torch.testing.assert_close(unit(x), expected)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 32), (3, 64, 64)])
@pytest.mark.parametrize("name", FRONT_ENDS.names())
def test_contract(name, shape):
    front_end = FRONT_ENDS.create(name, {}, image_shape=shape)
    x = torch.rand(3, *shape)
    z = front_end(x)
    assert tuple(z.shape[1:]) == front_end.feature_shape
    logits = cloud_of(front_end, 7)(z)
    assert logits.shape == (3, 7)
    logits.square().sum().backward()
    # Only the few hidden units of a squeeze-excitation may all be dead at the start.
    assert all(p.grad is not None for p in front_end.parameters())
    assert bool(next(front_end.parameters()).grad.any())


@pytest.mark.parametrize("name", FRONT_ENDS.names())
def test_images_of_a_batch_do_not_mix_when_evaluating(name):
    front_end = FRONT_ENDS.create(name, {}, image_shape=(1, 32, 32)).eval()
    x = torch.rand(4, 1, 32, 32)
    with torch.no_grad():
        together, alone = front_end(x), front_end(x[1:2])
    torch.testing.assert_close(together[1:2], alone)


@pytest.mark.parametrize("name", FRONT_ENDS.names())
def test_output_before_the_funnel_can_be_regularised(name):
    front_end = FRONT_ENDS.create(name, {}, image_shape=(1, 32, 32))
    layers = front_end.pre_funnel()
    if layers is None:
        assert not name.startswith("siftfunnel")
        return
    kept = []
    layers.register_forward_hook(lambda module, inputs, output: kept.append((output, output + 0)))
    x = torch.rand(2, 1, 32, 32)
    front_end(x)
    (output, at_the_time), *others = kept
    assert not others
    assert torch.equal(output, at_the_time)  # later layers do not overwrite it
    defence = DEFENCES.create("siftfunnel", {"regularise": "pre_funnel"})
    defence.penalty(make_batch(x, torch.zeros(2, *front_end.feature_shape), output)).backward()
    before = [p for p in layers.parameters() if p.grad is not None and bool(p.grad.any())]
    assert before
