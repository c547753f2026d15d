"""Encodings of released features are lossless and have the expected size."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.wire.encoding import FLOAT32, WireFormat, decode, encode, payload_bytes
from testbed.wire.quantisation import quantise

SHAPES = [(1, 12, 8, 8), (3, 5, 7, 3), (2, 1, 1, 1), (4, 9)]
FORMATS = [WireFormat(bits, sparse) for bits in (32, 8, 4, 2) for sparse in (False, True)]
finite = st.floats(-3e4, 3e4, width=32)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())


def features(shape, bits, kept, seed=0):
    """Return features that fit the format, with a share of non-zero values."""
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(shape, generator=rng) * 3.0
    z = torch.where(torch.rand(shape, generator=rng) < kept, z, torch.zeros(()))
    return quantise(z, bits) if bits < 32 else z


def sparsest(z, count):
    threshold = z.abs().flatten(1).sort(dim=1, descending=True).values[:, count - 1]
    return torch.where(z.abs() >= threshold.reshape(-1, *[1] * (z.dim() - 1)), z, torch.zeros(()))


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_decoding_returns_the_released_bits(shape, wire, kept):
    released = features(shape, wire.bits, kept)
    assert same_bits(decode(encode(released, wire)), released)


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=6, max_size=6), st.sampled_from([8, 4, 2]), st.booleans())
def test_any_quantised_values_are_encoded_without_loss(values, bits, sparse):
    released = quantise(torch.tensor(values).reshape(2, 3), bits)
    payload = encode(released, WireFormat(bits, sparse))
    assert same_bits(decode(payload), released)
    # The codes fit, so nothing fell back on float32; of three values only sparse zeros could.
    assert "z" not in payload


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=8, max_size=8), st.sampled_from([8, 4, 2]))
def test_quantisation_rounds_to_the_nearest_level(values, bits):
    z = torch.tensor(values)[None]
    found = quantise(z, bits)
    low, high = min(0.0, *values), max(0.0, *values)
    step = (high - low) / (2**bits - 1)
    # Half a step inside; at the ends the rounding of the zero point may cost another half.
    assert float((found - z).abs().max()) <= step * 1.0001 + 1e-6
    assert len(torch.unique(found)) <= 2**bits
    whole = found.double() / (step or 1.0)
    assert torch.allclose(whole, whole.round(), atol=0.02)


def test_quantising_by_hand():
    # Range 3 in 3 steps: the step is 1 and everything is rounded to whole numbers.
    z = torch.tensor([[-1.0, 0.4, 0.6, 2.0, 1.4]])
    assert quantise(z, 2).tolist() == [[-1.0, 0.0, 1.0, 2.0, 1.0]]
    assert quantise(torch.zeros(2, 3), 4).tolist() == [[0.0] * 3] * 2


def test_quantising_an_image_does_not_depend_on_its_batch():
    z = torch.randn(5, 3, 4, 4)
    whole = quantise(z, 8)
    assert all(same_bits(quantise(z[i : i + 1], 8)[0], whole[i]) for i in range(5))


def test_the_gradient_passes_straight_through_and_adds_no_bit():
    z = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = quantise(z, 4)
    assert same_bits(value.detach(), quantise(z.detach(), 4))
    (value * torch.arange(96.0).reshape(z.shape)).sum().backward()
    assert torch.equal(z.grad, torch.arange(96.0).reshape(z.shape))


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_dense_codes_take_only_their_bits(bits):
    released = features((2, 12, 8, 8), bits, 1.0)
    header, per_image = 3 + 4 * 4, 5
    assert payload_bytes(encode(released, WireFormat(bits))) == (
        header + 2 * per_image + math.ceil(2 * 768 * bits / 8)
    )


@pytest.mark.parametrize(
    ("elements", "count", "positions"),
    [
        (200, 4, 4 + 4 * 1),  # a count and indices of one byte
        (768, 8, 4 + 8 * 2),  # indices of two bytes
        (768, 100, 768 // 8),  # a bit for each
        (70_000, 3, 4 + 3 * 4),  # indices of four bytes
    ],
)
def test_positions_take_the_fewest_bytes(elements, count, positions):
    released = sparsest(torch.randn(1, elements), count)
    payload = encode(released, WireFormat(sparse=True))
    assert payload_bytes(payload) == 3 + 2 * 4 + positions + 4 * count
    assert same_bits(decode(payload), released)


def test_features_that_are_not_sparse_travel_as_float32():
    z = torch.randn(2, 50)
    assert list(encode(z, WireFormat(sparse=True))) == ["z"]
    assert list(encode(z, FLOAT32)) == ["z"]
    assert payload_bytes(encode(z)) == 400


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.2345])
def test_values_that_do_not_fit_their_bits_travel_as_float32(value):
    z = torch.tensor([[value, 1.0, -3.0, 1e-3]])
    payload = encode(z, WireFormat(8))
    assert list(payload) == ["z"]
    assert torch.equal(payload["z"].isnan(), z.isnan())


def damaged():
    whole = encode(features((2, 3, 4), 4, 0.3), WireFormat(4, sparse=True))["z.packed"]
    yield "empty", torch.zeros(0, dtype=torch.uint8)
    yield "cut", whole[:-1]
    yield "longer", torch.cat([whole, whole[:1]])
    yield "bits", torch.cat([torch.tensor([7], dtype=torch.uint8), whole[1:]])
    yield "form", torch.cat([whole[:1], torch.tensor([9], dtype=torch.uint8), whole[2:]])
    yield "type", whole.float()
    huge = np.concatenate([[8, 2, 2], np.frombuffer(np.array([9, 2**31], "<u4").tobytes(), "u1")])
    yield "huge", torch.from_numpy(huge.astype(np.uint8))
    beyond = np.concatenate(
        [[32, 2, 2], np.frombuffer(np.array([1, 5, 1], "<u4").tobytes(), "u1"), [5, 0, 0, 0, 0]]
    )
    yield "position", torch.from_numpy(beyond.astype(np.uint8))


@pytest.mark.parametrize("packed", [pytest.param(value, id=name) for name, value in damaged()])
def test_damaged_encodings_are_refused(packed):
    with pytest.raises(ValueError, match="features"):
        decode({"z.packed": packed})


def test_a_message_without_features_is_refused():
    with pytest.raises(ValueError, match="no features"):
        decode({"targets": torch.zeros(2)})
