"""The int8 emulation against arithmetic by hand, and against the float front-end."""

import numpy as np
import pytest
import torch
from small import make_spec
from torch import nn

from clients.local_training import LocalTraining
from clients.precision import ActivationQuantiser, Int8Emulation, quantise_weight
from testbed.core.registries import FRONT_ENDS
from testbed.wire.encoding import decode, payload_bytes


def test_weights_by_hand():
    weight = torch.tensor([[1.27, -0.5, 0.0], [0.0127, 0.00004, -0.006]])
    expected = torch.tensor([[1.27, -0.5, 0.0], [0.0127, 0.0, -0.006]])
    torch.testing.assert_close(quantise_weight(weight), expected)
    assert torch.equal(quantise_weight(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_folding_batch_norm_does_not_change_the_quantised_weights():
    torch.manual_seed(0)
    weight, scale = torch.randn(4, 3, 3, 3), torch.tensor([0.1, 3.0, 0.7, 12.0]).reshape(4, 1, 1, 1)
    torch.testing.assert_close(quantise_weight(weight * scale), quantise_weight(weight) * scale)


def test_activations_by_hand():
    quantiser = ActivationQuantiser()
    x = torch.tensor([-1.0, 0.0, 0.011, 1.55])
    assert torch.equal(quantiser.eval()(x), x)  # without a training batch there is no range
    rounded = quantiser.train()(x)
    # range -1 to 1.55, step 0.01, zero point 100
    torch.testing.assert_close(rounded, torch.tensor([-1.0, 0.0, 0.01, 1.55]))
    outside = quantiser.eval()(torch.tensor([9.0, -9.0]))
    torch.testing.assert_close(outside, torch.tensor([1.55, -1.0]))


def test_gradients_pass_inside_the_range_and_stop_outside():
    quantiser = ActivationQuantiser()
    quantiser.train()(torch.tensor([-1.0, 1.0]))
    x = torch.tensor([0.3, 4.0], requires_grad=True)
    quantiser.eval()(x).sum().backward()
    assert x.grad.tolist() == [1.0, 0.0]


def test_ranges_are_averaged_like_batch_norm():
    quantiser = ActivationQuantiser().train()
    for step, top in enumerate((1.0, 3.0, 5.0)):
        quantiser.momentum = 1.0 / (step + 1)
        quantiser(torch.tensor([0.0, top]))
    assert quantiser.high.item() == pytest.approx(3.0)


@pytest.mark.parametrize("name", FRONT_ENDS.names())
def test_every_front_end_runs_in_int8_close_to_float(name):
    x = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    outputs = {}
    for precision in ("float32", "int8"):
        model = make_spec(name, {}, precision=precision).build()
        parameters, statistics = model.initial_weights()
        weights = {**parameters, **statistics}
        rng = torch.Generator().manual_seed(0)
        model.features(weights, x, rng, training_step=0)  # sets ranges and statistics
        outputs[precision] = model.features(weights, x, rng)[1].detach()
    error = outputs["int8"] - outputs["float32"]
    assert 0 < error.norm() / outputs["float32"].norm() < 0.25
    assert all(len(image.unique()) <= 256 for image in outputs["int8"])


def test_only_activations_that_kernels_write_to_memory_are_rounded():
    chain = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1)
    )
    Int8Emulation(chain)
    hooked = [len(layer._forward_hooks) for layer in list(chain)[:5]]
    assert hooked == [0, 0, 0, 1, 1]


def test_released_features_travel_as_bytes_without_loss():
    model = make_spec(precision="int8").build()
    parameters, statistics = model.initial_weights()
    rng = torch.Generator().manual_seed(0)
    _, released, _ = model.features({**parameters, **statistics}, torch.rand(3, 1, 32, 32), rng)
    payload = model.encode(released.detach())
    assert torch.equal(decode(payload), released)
    assert payload_bytes(payload) < released.numel() * 1.1


def test_a_device_trains_in_int8(host_data):
    model = make_spec(precision="int8").build()
    parameters, statistics = model.initial_weights()
    local_training = LocalTraining(model, 1, 0, *host_data.training(1), parameters, statistics)
    z, _ = local_training.forward(0)
    local_training.backward(0, torch.ones_like(z))
    kernel = "blocks.0.0.weight"
    assert not np.allclose(local_training.parameters[kernel].detach(), parameters[kernel])
    assert any(
        name.startswith("quantisers") and value.any()
        for name, value in local_training.statistics.items()
    )
