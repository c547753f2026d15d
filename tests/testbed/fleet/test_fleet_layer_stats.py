"""Costs of modules against values computed by hand."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from testbed.fleet.layer_stats import layer_stats


def two_blocks() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.BatchNorm2d(128),
        nn.MaxPool2d(2),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """conv2(relu(conv1(x))) + x, all of 4 x 8 x 8 = 256 elements."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x))) + x


class Gate(nn.Module):
    """Scales the input by the mean of its channels, with functional operations only."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x.mean(dim=1, keepdim=True))


def test_two_blocks_by_hand() -> None:
    stats = layer_stats(two_blocks(), (3, 32, 32))
    assert stats.macs == 32 * 32 * 64 * 27 + 16 * 16 * 128 * 576 == 20_643_840
    assert stats.macs_conv3x3s1 == stats.macs
    assert stats.params == 76_032
    conv_and_pool = (3072 + 65536) + (65536 + 16384) + (16384 + 32768) + (32768 + 8192)
    assert stats.activation_elements == conv_and_pool
    # the first pooling reads 64x32x32 and writes 64x16x16; folded layers work in place
    assert stats.peak_activation_elements == 65536 + 16384
    # kept: the image, each block's convolution, normalisation and ReLU outputs, and 8-byte indices
    first = 3072 + 65536 + 65536 + 2 * 16384 + 16384
    second = 32768 + 32768 + 2 * 8192 + 8192
    assert stats.saved_activation_elements == first + second
    assert (stats.input_elements, stats.output_elements) == (3072, 8192)
    assert stats.output_shape == (128, 8, 8)


def test_residual_keeps_its_input_alive() -> None:
    stats = layer_stats(Residual(), (4, 8, 8))
    assert stats.peak_activation_elements == 3 * 256  # x, the hidden tensor, the second output
    assert stats.activation_elements == 2 * 512 + 3 * 256  # two convolutions and one addition
    assert stats.macs == 2 * 64 * 4 * 36


def test_functional_operations_are_counted() -> None:
    stats = layer_stats(Gate(), (4, 8, 8))
    assert stats.macs == stats.params == 0
    mean, sigmoid, product = 256 + 64, 64 + 64, 256 + 64 + 256
    assert stats.activation_elements == mean + sigmoid + product
    assert stats.peak_activation_elements == 256 + 64  # the product overwrites x


@pytest.mark.parametrize(
    ("module", "shape", "macs", "macs_3x3"),
    [
        (nn.Conv2d(4, 8, 3, padding=1), (4, 8, 8), 64 * 8 * 36, 64 * 8 * 36),
        (nn.Conv2d(4, 8, 3, padding=1, stride=2), (4, 8, 8), 16 * 8 * 36, 0),
        (nn.Conv2d(4, 8, 3, padding=2, dilation=2), (4, 8, 8), 64 * 8 * 36, 0),
        (nn.Conv2d(4, 8, 3, padding=1, groups=4), (4, 8, 8), 64 * 8 * 9, 0),
        (nn.Conv2d(4, 8, 1), (4, 8, 8), 64 * 8 * 4, 0),
        (nn.Conv2d(4, 8, 5, padding=2), (4, 8, 8), 64 * 8 * 100, 0),
        (nn.Linear(10, 7), (10,), 70, 0),
    ],
)
def test_macs_by_kind_of_layer(
    module: nn.Module, shape: tuple[int, ...], macs: int, macs_3x3: int
) -> None:
    stats = layer_stats(module, shape)
    assert (stats.macs, stats.macs_conv3x3s1) == (macs, macs_3x3)


def test_macs_are_half_of_torchs_flops() -> None:
    module = nn.Sequential(two_blocks(), nn.Flatten(), nn.Linear(8192, 10)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 3, 32, 32))
    assert layer_stats(module, (3, 32, 32)).macs * 2 == counter.get_total_flops()


def test_reshapes_are_free() -> None:
    stats = layer_stats(nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 8, 8))), (4, 8, 8))
    assert stats.activation_elements == 0
    assert stats.peak_activation_elements == 256
    assert stats.output_shape == (4, 8, 8)


def test_copies_are_not_free() -> None:
    class Transposed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(0, 2, 1, 3).contiguous()

    assert layer_stats(Transposed(), (4, 8, 8)).activation_elements == 512


def test_nothing_about_the_module_changes() -> None:
    module = nn.Sequential(two_blocks(), nn.Dropout(0.5))
    module.train()
    module[0][1].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    rng = torch.get_rng_state()
    layer_stats(module, (3, 32, 32))
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all((module.training, module[1].training, not module[0][1].training))
    assert all(parameter.grad is None for parameter in module.parameters())


def test_modes_survive_a_failing_module() -> None:
    module = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(RuntimeError):
        layer_stats(module, (5,))
    assert module.training


def test_a_module_must_return_one_tensor() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(TypeError, match="tuple"):
        layer_stats(Pair(), (4,))
