"""Operations of fused and unusual layers against counts by hand, and what is refused."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from testbed.core.errors import UserError
from testbed.fleet.layer_stats import layer_stats


class Call(nn.Module):
    """Calls a function of the input and its layers."""

    def __init__(self, function: Any, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function(x, *self.layers)
        return result


def attention(queries: int, keys: int, width: int) -> int:
    """Projections of queries, keys, values and outputs; scores; weighted values."""
    return (2 * queries + 2 * keys) * width * width + 2 * queries * keys * width


def encoder(tokens: int, width: int, hidden: int) -> int:
    return attention(tokens, tokens, width) + 2 * tokens * width * hidden


def itself(x: Tensor, layer: nn.Module) -> Tensor:
    result: Tensor = layer(x, x, x)[0]
    return result


def cross(x: Tensor, layer: nn.Module) -> Tensor:
    result: Tensor = layer(x, x[:, :5], x[:, :5], need_weights=False)[0]
    return result


def lstm_step(inputs: int, hidden: int, gates: int) -> int:
    return gates * hidden * (inputs + hidden)


ENCODER = nn.TransformerEncoderLayer(32, 4, 128, batch_first=True)
HEADS = nn.MultiheadAttention(32, 4, batch_first=True)
TOKENS_FIRST = nn.MultiheadAttention(32, 4)
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "transformer encoder layer": (ENCODER, (64, 32), 1_048_576),
    "transformer encoder": (nn.TransformerEncoder(ENCODER, 3), (64, 32), 3 * 1_048_576),
    "transformer decoder layer": (
        Call(
            lambda x, layer: layer(x, x[:, :4]),
            nn.TransformerDecoderLayer(32, 4, 128, batch_first=True),
        ),
        (16, 32),
        attention(16, 16, 32) + attention(16, 4, 32) + 2 * 16 * 32 * 128,
    ),
    "self-attention": (Call(itself, HEADS), (16, 32), attention(16, 16, 32)),
    "cross-attention": (Call(cross, HEADS), (16, 32), attention(16, 5, 32)),
    "attention, tokens first": (
        Call(lambda x, layer: itself(x.transpose(0, 1), layer), TOKENS_FIRST),
        (16, 32),
        attention(16, 16, 32),
    ),
    "scaled-dot-product attention": (
        Call(lambda x: functional.scaled_dot_product_attention(x, x, x)),
        (4, 16, 8),
        2 * 4 * 16 * 16 * 8,
    ),
    "causal attention": (
        Call(lambda x: functional.scaled_dot_product_attention(x, x, x, is_causal=True)),
        (4, 16, 8),
        2 * 4 * 16 * 16 * 8,
    ),
    "lstm": (
        Call(lambda x, layer: layer(x)[0], nn.LSTM(8, 16, batch_first=True)),
        (5, 8),
        5 * lstm_step(8, 16, 4),
    ),
    "lstm of two layers in both directions": (
        Call(lambda x, layer: layer(x)[0], nn.LSTM(8, 16, 2, batch_first=True, bidirectional=True)),
        (5, 8),
        5 * 2 * (lstm_step(8, 16, 4) + lstm_step(32, 16, 4)),
    ),
    "gru": (
        Call(lambda x, layer: layer(x)[0], nn.GRU(8, 16, 2, batch_first=True)),
        (5, 8),
        5 * (lstm_step(8, 16, 3) + lstm_step(16, 16, 3)),
    ),
    "rnn": (
        Call(lambda x, layer: layer(x)[0], nn.RNN(8, 16, batch_first=True, bidirectional=True)),
        (5, 8),
        5 * 2 * lstm_step(8, 16, 1),
    ),
    "lstm cell": (Call(lambda x, layer: layer(x)[0], nn.LSTMCell(8, 16)), (8,), 4 * 16 * 24),
    "bilinear": (
        Call(lambda x, layer: layer(x[:, :8], x[:, 8:]), nn.Bilinear(8, 9, 7)),
        (17,),
        7 * 8 * 9 + 7 * 9,
    ),
    "grouped convolution": (nn.Conv2d(8, 4, 3, groups=2), (8, 6, 6), 4 * 16 * 4 * 9),
    "depthwise convolution": (nn.Conv2d(8, 8, 3, groups=8), (8, 6, 6), 8 * 16 * 9),
    "transposed convolution": (
        nn.ConvTranspose2d(8, 4, 3, stride=2, groups=2),
        (8, 6, 6),
        36 * 8 * 2 * 9,
    ),
    "convolution in one dimension": (nn.Conv1d(3, 4, 5), (3, 20), 4 * 16 * 3 * 5),
    "convolution in three dimensions": (nn.Conv3d(3, 4, 3), (3, 4, 4, 4), 4 * 8 * 3 * 27),
    "functional convolution": (
        Call(lambda x, layer: functional.conv2d(x, layer.weight), nn.Conv2d(3, 4, 3)),
        (3, 6, 6),
        4 * 16 * 27,
    ),
    "einsum": (
        Call(lambda x: torch.einsum("bchw,cd->bdhw", x, torch.ones(3, 5))),
        (3, 6, 6),
        36 * 15,
    ),
    "matmul": (Call(lambda x: x @ x.transpose(1, 2)), (6, 9), 6 * 6 * 9),
    "matrix times vector": (Call(lambda x: torch.mv(torch.ones(5, 8), x[0])[None]), (8,), 40),
    "dot product": (Call(lambda x: torch.dot(x[0], x[0])[None]), (8,), 8),
    "distances": (Call(lambda x: torch.cdist(x, torch.ones(3, 8))), (4, 8), 4 * 3 * 8),
    "real fft": (
        Call(lambda x: torch.fft.rfft2(x).abs()),
        (3, 16, 16),
        math.ceil(2.5 * 3 * 256 * 8) // 2,
    ),
    "complex fft and back": (
        Call(lambda x: torch.fft.ifft(torch.fft.fft(x + 0j)).abs()),
        (16,),
        2 * 5 * 16 * 4 // 2,
    ),
    "back to real": (
        Call(lambda x: torch.fft.irfft2(torch.fft.rfft2(x))),
        (3, 16, 16),
        2 * (math.ceil(2.5 * 3 * 256 * 8) // 2),
    ),
    "complex product": (Call(lambda x: ((x + 0j) @ (x + 0j)).abs()), (4, 4), 4 * 64),
    "embedding": (
        Call(lambda x, layer: layer(x.long()), nn.Embedding(10, 4)),
        (5,),
        0,
    ),
    "embedding and linear": (
        Call(lambda x, table, last: last(table(x.long())), nn.Embedding(10, 4), nn.Linear(4, 3)),
        (5,),
        5 * 12,
    ),
}


def fixed_settings() -> tuple[Any, ...]:
    return (
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.mkldnn.enabled,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    )


@pytest.mark.parametrize("name", LAYERS)
def test_macs_by_hand_in_every_mode(name: str) -> None:
    module, shape, macs = LAYERS[name]
    before = fixed_settings()
    stats = layer_stats(module.train(), shape)
    assert stats.macs == macs
    assert layer_stats(module.eval(), shape) == stats
    with torch.no_grad():
        assert layer_stats(module, shape) == stats
    with torch.inference_mode():
        assert layer_stats(module, shape) == stats
    frozen = [parameter.requires_grad_(False) for parameter in module.parameters()]
    unsaved = layer_stats(module, shape)  # frozen layers keep less for a backward pass
    assert replace(unsaved, saved_activation_elements=stats.saved_activation_elements) == stats
    for parameter in frozen:
        parameter.requires_grad_(True)
    assert fixed_settings() == before


def test_the_encoder_is_the_sum_of_its_parts() -> None:
    assert encoder(64, 32, 128) == 1_048_576
    assert layer_stats(ENCODER, (64, 32)).params == sum(p.numel() for p in ENCODER.parameters())


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("matmul", 2 * 54 + 36),
        ("bilinear", (8 + 9 + 7) + (7 + 7)),  # the product; the bias is added
        ("real fft", 768 + 2 * 3 * 16 * 9 + 2 * 3 * 16 * 9 + 3 * 16 * 9),  # complex are two
        ("embedding", 5 * 4 + 5),  # the values are read as indices, which are neglected
        ("embedding and linear", 5 * 4 + 5 + 5 * 4 + 5 * 3),
        (  # queries and keys are scaled; scores; soft maximum; weighted values
            "scaled-dot-product attention",
            2 * (512 + 512) + (2 * 512 + 1024) + 2 * 1024 + (1024 + 512 + 512),
        ),
    ],
)
def test_activations_by_hand(name: str, elements: int) -> None:
    module, shape, _ = LAYERS[name]
    assert layer_stats(module, shape).activation_elements == elements


@pytest.mark.parametrize(
    "layer",
    [
        *(nn.ELU(), nn.GELU(), nn.Hardswish(), nn.LogSigmoid(), nn.Mish(), nn.PReLU(), nn.SELU()),
        *(nn.SiLU(), nn.Softplus(), nn.Tanh(), nn.GLU(1), nn.Softmax(1), nn.LogSoftmax(1)),
        *(nn.AvgPool2d(2), nn.MaxPool2d(2), nn.LPPool2d(2, 2), nn.AdaptiveMaxPool2d(2)),
        *(nn.GroupNorm(2, 8), nn.InstanceNorm2d(8), nn.LayerNorm([8, 8, 8]), nn.RMSNorm(8)),
        *(nn.LocalResponseNorm(2), nn.PixelShuffle(2), nn.ChannelShuffle(2), nn.ZeroPad2d(1)),
        *(nn.Upsample(scale_factor=2, mode=mode) for mode in ("nearest", "bilinear", "bicubic")),
    ],
    ids=repr,
)
def test_layers_without_products_move_activations_only(layer: nn.Module) -> None:
    stats = layer_stats(layer, (8, 8, 8))
    assert stats.macs == 0
    assert stats.activation_elements >= 512  # the input at least


def test_normalisation_by_the_inputs_own_statistics_is_not_folded() -> None:
    folded = layer_stats(nn.BatchNorm2d(4), (4, 8, 8))
    own = layer_stats(nn.BatchNorm2d(4, track_running_stats=False), (4, 8, 8))
    assert folded.activation_elements == 0
    assert own.activation_elements >= 2 * 256


def test_fixed_weights_count_like_parameters() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kernel", torch.ones(4, 3, 3, 3))
            self.matrix = torch.ones(16, 2)
            self.frozen = nn.Linear(2, 5).requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            z = functional.conv2d(x, self.get_buffer("kernel")).flatten(2)
            result: Tensor = self.frozen(z @ self.matrix)
            return result

    assert layer_stats(Fixed(), (3, 6, 6)).params == 108 + 32 + 15


class Outside(torch.autograd.Function):
    """Multiplies in NumPy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        array = x.detach().numpy()
        return torch.from_numpy(array @ array.swapaxes(-1, -2))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients


class Inside(torch.autograd.Function):
    """Multiplies in torch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x @ x.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients


@torch.library.custom_op("fleet_test::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return 2.0 * x


def quantised() -> nn.Module:
    quantise: Any = torch.ao.quantization.quantize_dynamic
    result: nn.Module = quantise(nn.Sequential(nn.Linear(8, 4)), dtype=torch.qint8)
    return result


REFUSED: dict[str, tuple[Any, str]] = {
    "inverse": (lambda: Call(torch.linalg.inv), "Call: .*'aten.linalg_inv_ex'"),
    "nested": (lambda: nn.Sequential(Call(torch.linalg.inv)), r"Sequential\.0: "),
    "quantised": (quantised, r"Sequential\.0: .*'quantized.linear_dynamic'"),
    "custom operator": (lambda: Call(torch.ops.fleet_test.twice), "'fleet_test.twice'"),
    "numpy": (lambda: Call(Outside.apply), "Call: .*leaves torch by 'numpy'"),
    "numpy beside": (lambda: Call(lambda x: x + Outside.apply(x)), "leaves torch by 'numpy'"),
    "script": (
        lambda: nn.Sequential(torch.jit.script(nn.Linear(8, 4))),
        r"Sequential\.0: .*TorchScript",
    ),
    "trace": (lambda: torch.jit.trace(nn.Linear(8, 4), torch.zeros(1, 8, 8)), "TorchScript"),
    "sparse": (lambda: Call(lambda x: x.to_sparse()), "Call: "),
    "branch": (
        lambda: Call(lambda x: torch.cond(x.sum() > 0, lambda y: y @ y, lambda y: -y, (x,))),
        "Call: .*'cond'",
    ),
    "other output": (lambda: Call(lambda x: torch.ones(1, 3)), "Call: .*code outside torch"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_counted_is_named(name: str) -> None:
    build, sentence = REFUSED[name]
    before = fixed_settings()
    with pytest.raises(UserError, match=sentence):
        layer_stats(build(), (8, 8))
    assert fixed_settings() == before


def test_a_custom_function_of_torch_operations_is_counted() -> None:
    assert layer_stats(Call(Inside.apply), (6, 9)).macs == 6 * 6 * 9


def test_fused_kernels_are_back_after_counting() -> None:
    """The same module runs on its fast path before and after, with the same output."""
    x = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = ENCODER.eval()(x)
        layer_stats(ENCODER, (64, 32))
        assert torch.equal(before, ENCODER(x))
