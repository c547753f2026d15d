"""Quantisation and top-k against their formulas, alone and on top of other defences."""

import numpy as np
import pytest
import torch

from testbed.core.registries import DEFENCES
from testbed.wire.encoding import decode, payload_bytes


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_quantisation_follows_the_affine_formula_by_a_slow_reference(bits):
    z = torch.randn(3, 4, 5, 5, generator=stream()) * torch.tensor([0.1, 1.0, 40.0]).reshape(
        3, 1, 1, 1
    )
    found = DEFENCES.create("quantisation", {"bits": bits}).release(z, stream())
    for image, released in zip(z.double().numpy(), found.double().numpy(), strict=True):
        step = (max(image.max(), 0.0) - min(image.min(), 0.0)) / (2**bits - 1)
        zero_point = round(-min(image.min(), 0.0) / step)
        codes = np.clip(np.rint(image / step) + zero_point, 0, 2**bits - 1)
        expected = step * (codes - zero_point)
        # The step of the implementation has 16 significant bits.
        near = np.abs(released - expected) <= 2.0**-15 * np.abs(expected) + 1e-12
        on_the_edge = np.abs(image / step - np.rint(image / step)) > 0.498
        assert (near | on_the_edge).all()


def test_fewer_bits_are_fewer_bytes():
    z = torch.relu(torch.randn(1, 12, 16, 16))
    sizes = {}
    for bits in (8, 4, 2):
        defence = DEFENCES.create("quantisation", {"bits": bits})
        payload = defence.encode(defence.release(z, stream()))
        sizes[bits] = payload_bytes(payload)
    assert sizes == {bits: 12 * 16 * 16 * bits // 8 + 3 + 16 + 5 for bits in (8, 4, 2)}


def test_top_k_keeps_the_largest_by_hand():
    defence = DEFENCES.create("top_k", {"share": 0.4})
    z = torch.tensor([[[[3.0, -5.0, 0.5, 0.0, 1.0]]], [[[-0.125, 0.0625, 0.0, -0.5, 0.25]]]])
    z.requires_grad_()
    released = defence.release(z, stream())
    assert released.tolist() == [[[[3.0, -5.0, 0.0, 0.0, 0.0]]], [[[0.0, 0.0, 0.0, -0.5, 0.25]]]]
    weights = torch.arange(10.0).reshape(z.shape)
    (released * weights).sum().backward()
    assert torch.equal(z.grad, weights)  # straight-through, also for dropped features


def test_top_k_sends_an_exact_number_even_of_equal_features():
    released = DEFENCES.create("top_k", {"share": 0.1}).release(torch.ones(2, 5, 4, 4), stream())
    assert (released != 0).flatten(1).sum(dim=1).tolist() == [8, 8]
    one = DEFENCES.create("top_k", {"share": 1e-6}).release(torch.ones(2, 5, 4, 4), stream())
    assert (one != 0).flatten(1).sum(dim=1).tolist() == [1, 1]


@pytest.mark.parametrize(
    "options",
    [
        {"name": "quantisation", "bits": 4, "base": {"name": "top_k", "share": 0.1}},
        {"name": "top_k", "share": 0.1, "base": {"name": "quantisation", "bits": 4}},
    ],
)
def test_few_features_of_few_bits_in_either_order(options):
    name = options.pop("name")
    defence = DEFENCES.create(name, options)
    z = torch.randn(2, 12, 8, 8, generator=stream(3))
    released = defence.release(z, stream())
    assert (released != 0).flatten(1).sum(dim=1).max() <= 77
    payload = defence.encode(released)
    assert torch.equal(decode(payload), released)
    # Header; step and zero point; a bit for every position; half a byte for each value.
    assert payload_bytes(payload) <= 3 + 16 + 2 * 5 + 2 * 96 + 77


def test_the_base_comes_first_and_keeps_its_own_terms():
    base = {"name": "siftfunnel", "alpha": 4.0, "smoothing": 0.2}
    defence = DEFENCES.create("quantisation", {"base": base})
    assert defence.task_weight == 4.0
    assert float(defence.targets(torch.tensor([1]), 5)[0, 1]) == pytest.approx(0.8)
    noisy = DEFENCES.create("quantisation", {"bits": 2, "base": "gaussian_noise"})
    z = torch.randn(1, 3, 8, 8)
    first, second = noisy.release(z, stream(1)), noisy.release(z, stream(2))
    assert not torch.equal(first, second)
    assert len(torch.unique(first)) <= 4
