"""Attention blocks and SiftFunnel's tail against loops in plain numpy (float64)."""

import numpy as np
import pytest
import torch

from testbed.core.layers import Cbam, SqueezeExcitation, TripletAttention, funnel_tail, widen

N, C, H, W = 2, 6, 5, 4


@pytest.fixture
def x():
    return torch.randn(N, C, H, W, dtype=torch.float64)


def values(tensor):
    return tensor.detach().numpy()


def sigmoid(a):
    return 1.0 / (1.0 + np.exp(-a))


def relu(a):
    return np.maximum(a, 0.0)


def convolve(image, weight, bias=None):
    """Cross-correlate (C, H, W) with (C', C, k, k), zero padding that keeps the size, by loops."""
    pad = weight.shape[2] // 2
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    out = np.zeros((len(weight), *image.shape[1:]))
    for o in range(out.shape[0]):
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                window = padded[:, i : i + weight.shape[2], j : j + weight.shape[3]]
                out[o, i, j] = (window * weight[o]).sum()
        if bias is not None:
            out[o] += bias[o]
    return out


def conv_layer(image, layer):
    return convolve(image, values(layer.weight), None if layer.bias is None else values(layer.bias))


def randomise_norms(module):
    """Give every batch norm statistics and an affine map that reveal a wrong order."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for tensor in (layer.running_mean, layer.weight.data, layer.bias.data):
                tensor.normal_()
            layer.running_var.uniform_(0.5, 2.0)
    return module.double().eval()


def normalise(channel, layer, index=0):
    mean, variance = values(layer.running_mean)[index], values(layer.running_var)[index]
    scaled = (channel - mean) / np.sqrt(variance + layer.eps)
    return scaled * values(layer.weight)[index] + values(layer.bias)[index]


def test_squeeze_excitation(x):
    block = SqueezeExcitation(C, 3).double()
    squeeze, excite = values(block.squeeze.weight), values(block.excite.weight)
    assert squeeze.shape == (2, C)
    expected = np.zeros(x.shape)
    for n, image in enumerate(x.numpy()):
        means = np.array([image[c].sum() / (H * W) for c in range(C)])
        gate = sigmoid(excite @ relu(squeeze @ means))
        for c in range(C):
            expected[n, c] = image[c] * gate[c]
    np.testing.assert_allclose(values(block(x)), expected, rtol=1e-12)
    assert block.squeeze.bias is None
    assert block.excite.bias is None


def gate_along(image, axis, gate):
    """Gate one image: pool over ``axis``, convolve over the other two in the block's order."""
    # Swapping axes 0 and ``axis`` puts the pooled axis first, as the block's transpose does.
    swapped = np.swapaxes(image, 0, axis)
    pooled = np.stack([swapped.max(axis=0), swapped.mean(axis=0)])
    scores = normalise(convolve(pooled, values(gate.conv.weight))[0], gate.norm)
    out = np.empty_like(swapped)
    for index in range(len(swapped)):
        out[index] = swapped[index] * sigmoid(scores)
    return np.swapaxes(out, 0, axis)


def test_triplet_attention(x):
    block = randomise_norms(TripletAttention())
    expected = np.stack(
        [
            (
                gate_along(image, 1, block.channel_height)
                + gate_along(image, 2, block.channel_width)
                + gate_along(image, 0, block.spatial)
            )
            / 3
            for image in x.numpy()
        ]
    )
    np.testing.assert_allclose(values(block(x)), expected, rtol=1e-10, atol=1e-12)


def test_triplet_gates_have_the_published_layers():
    block = TripletAttention()
    for gate in (block.channel_height, block.channel_width, block.spatial):
        assert gate.conv.weight.shape == (1, 2, 7, 7)
        assert gate.conv.bias is None
        assert gate.norm.momentum == 0.01


def test_cbam(x):
    block = Cbam(C, 2).double()
    squeeze = values(block.squeeze.weight)[:, :, 0, 0]
    excite = values(block.excite.weight)[:, :, 0, 0]
    expected = np.zeros(x.shape)
    for n, image in enumerate(x.numpy()):
        means = np.array([image[c].mean() for c in range(C)])
        peaks = np.array([image[c].max() for c in range(C)])
        gate = sigmoid(excite @ relu(squeeze @ means) + excite @ relu(squeeze @ peaks))
        scaled = image * gate[:, None, None]
        pooled = np.zeros((2, H, W))
        for i in range(H):
            for j in range(W):
                pooled[:, i, j] = scaled[:, i, j].mean(), scaled[:, i, j].max()
        expected[n] = scaled * sigmoid(convolve(pooled, values(block.spatial.weight)))
    np.testing.assert_allclose(values(block(x)), expected, rtol=1e-10, atol=1e-12)


def test_tail(x):
    tail = funnel_tail(C).double()
    first, second, third, fourth = [m for m in tail if isinstance(m, torch.nn.Conv2d)]
    assert [m.kernel_size[0] for m in (first, second, third, fourth)] == [3, 1, 3, 5]
    expected = []
    for image in x.numpy():
        a = conv_layer(image, first)
        b = conv_layer(a * sigmoid(a), second)
        expected.append(relu(conv_layer(conv_layer(b, third), fourth)))
    np.testing.assert_allclose(values(tail(x)), np.stack(expected), rtol=1e-10, atol=1e-12)


def test_widen(x):
    up = randomise_norms(widen(C, 3))
    expected = []
    for image in x.numpy():
        b = conv_layer(conv_layer(image, up[0]), up[1])
        expected.append(np.stack([relu(normalise(b[c], up[2], c)) for c in range(3)]))
    np.testing.assert_allclose(values(up(x)), np.stack(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [lambda: SqueezeExcitation(C, 3), TripletAttention, lambda: Cbam(C, 2), lambda: funnel_tail(C)],
    ids=["se", "triplet", "cbam", "tail"],
)
def test_gradients_by_finite_differences(make):
    block = make().double().eval()
    z = torch.randn(1, C, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (z,))
