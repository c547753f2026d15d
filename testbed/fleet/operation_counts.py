"""Multiply-accumulates of single tensor operations, and which operations count as having none.

An operation is either counted by a formula, or known to have no multiply-accumulates of its own
(element-wise, reductions, pooling, movements of data), or refused: an unknown operation is never
counted as 0.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from traceback import walk_tb
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from testbed.core.errors import UserError
from testbed.core.gating import composed_layers

aten = torch.ops.aten

COMPLEX_PRODUCT = 4
"""Real multiplications of one product of complex numbers."""

_LIGHT = """
_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d avg_pool2d
avg_pool3d fractional_max_pool2d max_pool2d_with_indices max_pool3d_with_indices max_unpool2d
mkldnn_max_pool2d quantized_max_pool2d
_batch_norm_no_update _batch_norm_with_update _fused_rms_norm _native_batch_norm_legit
_native_batch_norm_legit_no_training _weight_norm_interface cudnn_batch_norm native_batch_norm
native_group_norm native_layer_norm renorm
_log_softmax _safe_softmax _softmax _masked_softmax cumsum cumprod cummax cummin logcumsumexp
hardswish log_sigmoid_forward _fake_quantize_learnable_per_tensor_affine
fake_quantize_per_channel_affine_cachemask
fake_quantize_per_tensor_affine_cachemask _prelu_kernel rrelu_with_noise glu
_embedding_bag _embedding_bag_forward_only embedding
grid_sampler_2d grid_sampler_3d upsample_bicubic2d upsample_bilinear2d upsample_linear1d
upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
_upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
_upsample_nearest_exact2d _upsample_nearest_exact3d affine_grid_generator
channel_shuffle native_channel_shuffle pixel_shuffle pixel_unshuffle col2im im2col roll flip
rot90 constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
replication_pad2d replication_pad3d
_copy_from _local_scalar_dense _reshape_alias _reshape_copy _to_copy _unsafe_view cat clone
contiguous copy detach expand lift lift_fresh repeat repeat_interleave resize set stack view
split unsafe_split unsafe_split_with_sizes unbind alias block_diag tril triu diag_embed
gather index _unsafe_index index_add index_copy index_fill index_put _unsafe_index_put
_index_put_impl index_select index_reduce masked_scatter masked_select nonzero put
scatter scatter_add scatter_reduce select_scatter slice_scatter diagonal_scatter take
arange argsort bincount bucketize histc kthvalue max median min mode msort nanmedian
searchsorted sort topk unique_dim _unique2 unique_consecutive std_mean var_mean
bernoulli cauchy exponential geometric log_normal multinomial native_dropout normal poisson
random uniform rand_like randint_like randn_like randperm
empty_like empty_permuted full_like fill new_empty new_empty_strided new_full new_ones new_zeros
ones_like zero zeros_like is_same_size equal allclose
"""
LIGHT_OPS = frozenset(_LIGHT.split())
"""Operations without multiply-accumulates of their own, beside those that torch tags as
element-wise, reductions or views; in-place variants have a trailing underscore."""


def _flops_of_product(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Return the FLOPs of a matrix or vector (.., n) times a matrix or vector (n, ..)."""
    return 2 * math.prod(a) * math.prod(b[1:])


def _mv(a: tuple[int, ...], x: tuple[int, ...], **kwargs: Any) -> int:
    return _flops_of_product(a, x)


def _addmv(bias: tuple[int, ...], a: tuple[int, ...], x: tuple[int, ...], **kwargs: Any) -> int:
    return _flops_of_product(a, x)


def _ger(a: tuple[int, ...], b: tuple[int, ...], **kwargs: Any) -> int:
    return 2 * a[0] * b[0]


def _addr(c: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...], **kwargs: Any) -> int:
    return _ger(a, b)


def _addbmm(c: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...], **kwargs: Any) -> int:
    return 2 * math.prod(a) * b[2]


def _cdist(a: tuple[int, ...], b: tuple[int, ...], *args: Any, **kwargs: Any) -> int:
    return 2 * math.prod(a) * b[-2]


def _sdpa(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *a: Any, **kw: Any) -> int:
    """Scores Q K^T and the weighted sum of the values."""
    return 2 * math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _trilinear(
    i1: tuple[int, ...],
    i2: tuple[int, ...],
    i3: tuple[int, ...],
    expand1: list[int],
    expand2: list[int],
    expand3: list[int],
    sumdim: list[int],
    *args: Any,
    **kwargs: Any,
) -> int:
    """Contract one summed dimension of x1 A x2 after the other, as two products."""
    operands: list[list[int]] = []
    for shape, expanded in ((i1, expand1), (i2, expand2), (i3, expand3)):
        sizes = list(shape)
        for dim in sorted(expanded):
            sizes.insert(dim, 1)
        operands.append(sizes)
    full: list[int] = [
        max(sizes) for sizes in zip(*operands, strict=True)
    ]  # the expanded ones are 1
    return 2 * (math.prod(full) + math.prod(full) // full[sumdim[0]])


def _fft(points: tuple[int, ...], dims: list[int], flops_per_point: float) -> int:
    """Return the FLOPs of an FFT of radix 2: 5 n log2 n on n complex, half on n real points."""
    n = math.prod(points[dim] for dim in dims)
    return math.ceil(flops_per_point * math.prod(points) * math.log2(n))


def _fft_c2c(x: tuple[int, ...], dims: list[int], *args: Any, **kwargs: Any) -> int:
    return _fft(x, dims, 5.0)


def _fft_r2c(x: tuple[int, ...], dims: list[int], *args: Any, **kwargs: Any) -> int:
    return _fft(x, dims, 2.5)


def _fft_c2r(
    x: tuple[int, ...], dims: list[int], *args: Any, out_shape: tuple[int, ...], **kwargs: Any
) -> int:
    return _fft(out_shape, dims, 2.5)


_OWN_FORMULAS: dict[Any, Callable[..., int]] = {
    aten.mv: _mv,
    aten.dot: _mv,
    aten.vdot: _mv,
    aten.addmv: _addmv,
    aten.ger: _ger,
    aten.addr: _addr,
    aten.addbmm: _addbmm,
    aten._cdist_forward: _cdist,
    aten._scaled_dot_product_flash_attention_for_cpu: _sdpa,
    aten._trilinear: _trilinear,
    aten._fft_c2c: _fft_c2c,
    aten._fft_r2c: _fft_r2c,
    aten._fft_c2r: _fft_c2r,
}
_TRANSFORMS = frozenset({aten._fft_c2c, aten._fft_r2c, aten._fft_c2r})


def formula(func: Any) -> Callable[..., int] | None:
    """Return the function of an operation's arguments and result that counts its FLOPs."""
    packet = func.overloadpacket
    own = _OWN_FORMULAS.get(packet)
    if own is None:
        return flop_registry.get(packet) or _of_in_place(packet)

    def counted(*args: Any, out_val: Any, **kwargs: Any) -> int:
        shapes = [tuple(arg.shape) if isinstance(arg, Tensor) else arg for arg in args]
        out_shape = tuple(out_val.shape) if isinstance(out_val, Tensor) else None
        return own(*shapes, **kwargs, out_shape=out_shape)

    return counted


def _of_in_place(packet: Any) -> Callable[..., int] | None:
    name = packet.__name__
    if not name.endswith("_") or not hasattr(aten, name[:-1]):
        return None
    plain = getattr(aten, name[:-1])
    return flop_registry.get(plain) or (
        formula(getattr(plain, plain.overloads()[0])) if plain in _OWN_FORMULAS else None
    )


def complex_factor(func: Any, args: tuple[Any, ...]) -> int:
    """Return real products per counted product: 4 for complex operands of a product, else 1."""
    if func.overloadpacket in _TRANSFORMS:  # the formulas count real operations
        return 1
    return COMPLEX_PRODUCT if any(isinstance(a, Tensor) and a.is_complex() for a in args) else 1


def is_light(func: Any) -> bool:
    """Return whether an operation is known to have no multiply-accumulates of its own."""
    packet = func.overloadpacket
    if func.namespace == "prim" or func.is_view or torch.Tag.inplace_view in func.tags:
        return True
    if func.namespace != "aten":
        return False
    if packet.__name__.rstrip("_") in LIGHT_OPS:
        return True
    return any(
        {torch.Tag.pointwise, torch.Tag.reduction} & set(getattr(packet, overload).tags)
        for overload in packet.overloads()
    )


def refused(where: str, what: str) -> UserError:
    """Return the error for something whose operations cannot be counted."""
    return UserError(
        f"{where}: the operations of {what} cannot be counted, so that its latency, energy and "
        "memory are unknown; write it with operations that are counted "
        "(docs/costs.md#counted-operations)"
    )


def _compiled(trace: TracebackType | None) -> str:
    """Return the name of the operation that torch was compiling when it failed."""
    for frame, _ in walk_tb(trace):
        if "_higher_order_ops" in frame.f_code.co_filename:
            return frame.f_code.co_name
    return "torch.compile"


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Base of the modes that count what torch executes; a subclass says what it records.

    An unknown operation is replaced by those that torch composes it of. What is left without a
    formula is refused, and so is an operation whose arguments are functions (``torch.cond``,
    ``flex_attention``): which branch runs, or how often, depends on the data.

    Parameters
    ----------
    where : returns what is running, for the message.
    """

    supports_higher_order_operators = True  # they are refused here, by name

    def __init__(self, where: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._where = where

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Do not exclude the mode from compilation: this alone would load torch's compiler."""
        return False

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, kind: Any, error: Any, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        if kind is not None and kind.__module__.startswith("torch._dynamo"):
            # Some operations are compiled before any mode sees them, and a mode cannot be compiled.
            raise refused(self._where(), f"'{_compiled(trace)}'") from error

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if isinstance(func, HigherOrderOperator):
            raise refused(self._where(), f"'{func.__name__}'")
        kwargs = kwargs or {}
        if self.is_countable(func, args, kwargs):
            result = func(*args, **kwargs)
            self.record(func, args, kwargs, result)
            return result
        with self:
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            name = f"'{func.namespace}.{func.overloadpacket.__name__}'"
            raise refused(self._where(), name)
        return result

    def is_countable(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Return whether an operation has a formula, or is known to need none."""
        raise NotImplementedError

    def record(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Record an operation that was executed."""
        raise NotImplementedError


_LEAVES_TORCH = frozenset(
    {
        Tensor.numpy,
        Tensor.__array__,
        Tensor.tolist,
        Tensor.data_ptr,
        Tensor.__dlpack__,
    }
)


class Escapes(TorchFunctionMode):
    """Refuses code that takes values out of torch, where no operation is counted.

    Parameters
    ----------
    where : returns what is running, for the message.
    counts : whether a tensor's values must not leave.
    """

    def __init__(self, where: Callable[[], str], counts: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self._where = where
        self._counts = counts

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _LEAVES_TORCH and args and self._counts(args[0]):
            raise refused(self._where(), f"code that leaves torch by '{func.__name__}'")
        return func(*args, **(kwargs or {}))


@contextmanager
def unfused() -> Iterator[None]:
    """Make torch execute attention and recurrent layers as operations that are counted.

    The fast paths of ``MultiheadAttention`` and ``TransformerEncoderLayer``, fused attention and
    oneDNN's LSTM are one operation each, whose contents no counter sees. The testbed's attention
    layers run as published. All settings are restored.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    onednn: Any = torch.backends.mkldnn
    with ExitStack() as settings:
        settings.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        settings.callback(setattr, onednn, "enabled", onednn.enabled)
        torch.backends.mha.set_fastpath_enabled(False)
        onednn.enabled = False
        settings.enter_context(torch.inference_mode(False))  # it hides composite operations
        settings.enter_context(sdpa_kernel(SDPBackend.MATH))
        settings.enter_context(composed_layers())
        yield
