"""Triplet attention with gradients of its own equals its modules, run one after another."""

import pytest
import torch
from torch import nn

from testbed.core.gating import (
    LONGEST_BAND,
    _BandConvolution,
    composed_layers,
    convolve,
    gated,
    must_compose,
    pools,
)
from testbed.core.layers import FEW_NUMBERS, TripletAttention, channels_last

SHAPES = [(2, 3, 5, 4), (3, 16, 4, 4), (1, 5, 1, 7), (4, 2, 9, 3), (2, 70, 3, 66), (5, 8, 2, 2)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def features(shape, layout, dtype, seed=0):
    """Return features as a ReLU leaves them: many maxima are equal, at 0."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return torch.relu(x - 0.5).contiguous(memory_format=layout).requires_grad_()


def run(block, x, seed=1):
    """Return output, gradients and batch statistics."""
    z = block(x)
    rng = torch.Generator().manual_seed(seed)
    gradient = torch.randn(z.shape, generator=rng, dtype=z.dtype)
    gradients = torch.autograd.grad(z, [x, *block.parameters()], gradient)
    return [z.detach(), *gradients, *(b.clone() for b in block.buffers())]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_modules(shape, layout, training):
    fast, plain = TripletAttention().double(), TripletAttention().double()
    for norm in (layer for layer in fast.modules() if isinstance(layer, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, -1.0, 1.0)
        norm.running_var.uniform_(0.5, 2.0)
    plain.load_state_dict(fast.state_dict())
    x = features(shape, layout, torch.float64)
    found = run(fast.train(training), x)
    with composed_layers():
        expected = run(plain.train(training), x)
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("images", [2, 10, 20])
def test_single_precision_differs_by_rounding(images, layout):
    block = TripletAttention().eval()
    x = features((images, 64, 16, 16), layout, torch.float32)
    with composed_layers():
        expected = block(x)
    torch.testing.assert_close(block(x), expected, rtol=0.0, atol=2e-6)


def test_halves_of_a_batch_have_its_values():
    block = TripletAttention().eval()
    x = features((6, 8, 16, 16), torch.channels_last, torch.float32).detach()
    assert x[:3].numel() > FEW_NUMBERS / 4
    with torch.enable_grad():
        parts = torch.cat([block(x[:3]), block(x[3:])])
        torch.testing.assert_close(parts, block(x), rtol=0.0, atol=1e-6)


def test_few_features_without_gradients_have_the_values_of_many():
    block = TripletAttention().eval()
    x = features((1, 8, 4, 4), torch.channels_last, torch.float32)
    with torch.no_grad():
        few = block(x)
    torch.testing.assert_close(few, block(x), rtol=0.0, atol=1e-6)


def distinct(*shape):
    """Return a leaf without equal numbers, where the maximum has a derivative."""
    size = torch.Size(shape).numel()
    order = torch.randperm(size, generator=torch.Generator().manual_seed(2)).double() / size
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return order.view(shape).contiguous(memory_format=layout).requires_grad_()


def test_gradients_of_the_parts():
    x = distinct(2, 3, 4, 5)
    gates = [distinct(2, 3, 1, 5), distinct(2, 3, 4, 1), distinct(2, 1, 4, 5)]
    maps, weight = distinct(2, 6, 2, 4).contiguous(), distinct(2, 7, 7)

    def pooled(x):
        return [part for pair in pools(x) for part in pair]

    def product(x, *gates):
        return gated(x, gates)

    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(pooled, (x,))
        assert check(product, (x, *gates))
        assert check(_BandConvolution.apply, (maps.detach().requires_grad_(), weight))


def test_equal_maxima_share_the_gradient_as_in_torch():
    x = features((3, 4, 6, 5), torch.channels_last, torch.float64)
    found = torch.autograd.grad(sum(peak.sum() for peak, _ in pools(x)), x)[0]
    wanted = torch.autograd.grad(sum(x.amax(dim=dim).sum() for dim in (1, 2, 3)), x)[0]
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("rows", "columns"), [(4, 9), (9, 4), (1, 1), (LONGEST_BAND + 1, 80)])
def test_narrow_convolutions(rows, columns):
    layer = nn.Conv2d(2, 1, 7, padding=3, bias=False).double()
    maps = torch.randn(3, 2, rows, columns, dtype=torch.float64)
    torch.testing.assert_close(convolve(layer, list(maps.unbind(1))), layer(maps))


def test_runs_under_autocast():
    block = TripletAttention()
    x = features((4, 64, 16, 16), torch.channels_last, torch.float32).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = block(x.bfloat16().requires_grad_())
    assert z.dtype == torch.bfloat16
    z.float().square().mean().backward()
    torch.testing.assert_close(z.float(), block(x), rtol=0.05, atol=0.05)
    assert all(p.grad.dtype == torch.float32 for p in block.parameters())


def test_a_hook_on_a_part_sees_and_changes_its_output():
    block, x = TripletAttention(), features((2, 4, 4, 4), torch.channels_last, torch.float32)
    assert not must_compose(block)
    before = block(x)
    block.spatial.register_forward_hook(lambda module, inputs, output: output * 0.0)
    assert must_compose(block)
    assert not torch.allclose(block(x), before)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_enter_in_the_fast_layout(channels):
    x = torch.randn(2, channels, 8, 6)
    moved = channels_last(x)
    assert torch.equal(moved, x)
    assert moved.stride() == (48 * channels, 1, 6 * channels, channels)
    convolved = nn.Conv2d(channels, 4, 3)(moved)
    assert convolved.is_contiguous(memory_format=torch.channels_last)
