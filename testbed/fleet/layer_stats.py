"""Measures the costs of one forward pass of a module: operations, memory traffic, memory.

The module runs once on a batch of one, and every tensor operation is recorded below autograd, so
that functional operations and hand-written attention count as layers do. The conventions are those
of the published tables that the cost model is calibrated on:

- batch normalisation and ReLU-like activations are folded into the preceding convolution, as in
  every deployment runtime, and move no activations;
- element-wise operations overwrite an input that is not needed any more;
- views (reshape, transpose, slicing) are free.

Fused kernels are taken apart while measuring. What cannot be counted is refused
(``testbed.fleet.operation_counts``), never counted as 0.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten
from torch.utils.module_tracker import ModuleTracker

from testbed.fleet.calibration.latency_form import NetworkCosts
from testbed.fleet.operation_counts import (
    Counting,
    Escapes,
    complex_factor,
    formula,
    is_light,
    refused,
    unfused,
)

FOLDED_OPS = frozenset(
    {
        "native_batch_norm",
        "_native_batch_norm_legit_no_training",
        "_batch_norm_no_update",
        "cudnn_batch_norm",
        "relu",
        "relu_",
        "hardtanh",
        "hardtanh_",
        "clamp",
        "clamp_min",
        "leaky_relu",
        "leaky_relu_",
    }
)
"""Operations that deployment runtimes fold into the preceding layer."""


@dataclass(frozen=True)
class LayerStats(NetworkCosts[int]):
    """Costs of one forward pass of one input (a batch of one).

    Attributes
    ----------
    peak_activation_elements : maximum of elements alive at once during inference.
    saved_activation_elements : elements kept for the backward pass, per input, in units of 4 bytes.
    input_elements, output_elements : elements of one input and of its output.
    output_shape : (C, H, W) of the output for a batch of one; shorter for flat outputs.
    """

    peak_activation_elements: int
    saved_activation_elements: int
    input_elements: int
    output_elements: int
    output_shape: tuple[int, ...]

    def then(self, following: "LayerStats") -> "LayerStats":
        """Return the costs of this network and another one that continues from its output."""
        summed = (*(field.name for field in fields(NetworkCosts)), "saved_activation_elements")
        return replace(
            following,
            **{name: getattr(self, name) + getattr(following, name) for name in summed},
            peak_activation_elements=max(
                self.peak_activation_elements, following.peak_activation_elements
            ),
            input_elements=self.input_elements,
        )


def layer_stats(module: nn.Module, input_shape: tuple[int, ...]) -> LayerStats:
    """Measure a module on one input.

    Parameters, buffers, modes, the RNG and torch's settings do not change.

    Parameters
    ----------
    module : maps one tensor to one tensor, on the CPU.
    input_shape : shape of one input without the batch dimension, for images (C, H, W).

    Raises
    ------
    TypeError : the module does not return one tensor.
    UserError : an operation cannot be counted; it names the layer and the operation.
    """
    for name, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            where = ".".join(filter(None, (type(module).__name__, name)))
            raise refused(where, "a TorchScript module")
    modes = [(child, child.training) for child in module.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    parameters = list(module.parameters())
    dtype = next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)
    try:
        module.eval()
        with torch.random.fork_rng(devices=[]), unfused():
            image = torch.zeros((1, *input_shape), dtype=dtype)
            with torch.no_grad(), ModuleTracker() as tracker:
                recorder = _Recorder(image, {_key(p) for p in parameters}, tracker)
                with Escapes(lambda: recorder.layer, recorder.follows), recorder:
                    output = module(image)
            if not isinstance(output, Tensor):
                raise TypeError(f"{type(module).__name__} returns {type(output).__name__}")
            if not recorder.follows(output):
                raise refused(type(module).__name__, "code outside torch, which makes its output,")
            constant = {_key(t) for t in (*parameters, *module.buffers())}
            saved = _saved_for_backward(module, image, constant)
    finally:
        for child, training in modes:
            child.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    return LayerStats(
        macs=recorder.flops // 2,
        macs_conv3x3s1=recorder.macs_conv3x3s1,
        params=sum(p.numel() for p in parameters) + recorder.fixed_weights,
        activation_elements=recorder.traffic_elements,
        peak_activation_elements=recorder.peak_elements(image, output),
        saved_activation_elements=saved,
        input_elements=image.numel(),
        output_elements=output.numel(),
        output_shape=tuple(output.shape[1:]),
    )


def _key(tensor: Tensor) -> int:
    """Return a key of a tensor's memory; views of one memory share it."""
    return int(tensor.untyped_storage()._cdata)


def _elements(tensor: Tensor) -> int:
    """Return the real numbers in the memory that a tensor is a view of."""
    elements = int(tensor.untyped_storage().nbytes()) // tensor.element_size()
    return 2 * elements if tensor.is_complex() else elements


def _moved(tensor: Tensor) -> int:
    """Return the real numbers of a tensor."""
    return 2 * tensor.numel() if tensor.is_complex() else tensor.numel()


def _tensors(tree: Any) -> list[Tensor]:
    leaves, _ = tree_flatten(tree)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _counted(tensors: list[Tensor]) -> list[Tensor]:
    """Return the tensors of real or complex numbers; indices are neglected."""
    return [tensor for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()]


@dataclass(frozen=True)
class _Operation:
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    overwrites_input: bool


class _Recorder(Counting):  # type: ignore[no-untyped-call]
    """Records the memory that every operation reads and writes, and counts the model's costs.

    Memory varies if it comes from the input or from random numbers. All other memory is constant:
    parameters, and what is computed of them alone.
    """

    def __init__(self, image: Tensor, parameters: set[int], tracker: ModuleTracker) -> None:
        super().__init__(lambda: self.layer)
        self._tracker = tracker
        self._parameters = parameters
        self._computed = {_key(image)}
        self._fixed: dict[int, int] = {}
        self._from_input = {_key(image)}
        self._varying = {_key(image)}
        self._sizes: dict[int, int] = {}
        self._kept: list[Tensor] = []  # memory must not be reused: keys stay unique
        self._operations: list[_Operation] = []
        self.traffic_elements = 0
        self.flops = 0
        self.macs_conv3x3s1 = 0

    def is_countable(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Return whether an operation has a formula or needs none; new constants need none."""
        return formula(func) is not None or is_light(func) or not _tensors((args, kwargs))

    def record(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Count an operation, and follow what its result was computed from."""
        inputs, outputs, counter = _tensors((args, kwargs)), _tensors(result), formula(func)
        for tensor in (*inputs, *outputs):
            if tensor.layout != torch.strided:
                raise refused(self.layer, f"tensors of layout '{tensor.layout}'")
        if counter is not None:
            self.flops += counter(*args, **kwargs, out_val=result) * complex_factor(func, args)
            self._fixed |= {
                _key(tensor): _moved(tensor)
                for tensor in inputs
                if _key(tensor) not in self._computed | self._parameters
            }
        self._follow(func, inputs, outputs)
        reads = [tensor for tensor in inputs if _key(tensor) in self._varying]
        writes = [out for out in outputs if _key(out) in self._varying and out.numel()]
        if reads and not func.is_view:
            self._record(func, args, _counted(reads), _counted(writes))

    @property
    def fixed_weights(self) -> int:
        """Return the numbers in weights that are no parameters, such as kernels in buffers."""
        return sum(self._fixed.values())

    @property
    def layer(self) -> str:
        """Return the name of the innermost module that is running."""
        return str(max(self._tracker.parents - {"Global"}, key=len, default="network"))

    def follows(self, tensor: Tensor) -> bool:
        """Return whether a tensor was computed from the input by recorded operations."""
        return tensor.layout == torch.strided and _key(tensor) in self._from_input

    def _follow(self, func: Any, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        self._kept.extend(outputs)
        read, written = set(map(_key, inputs)), set(map(_key, outputs))
        self._computed |= written - read
        if read & self._from_input:
            self._from_input |= written
        if read & self._varying or torch.Tag.nondeterministic_seeded in func.tags:
            self._varying |= written

    def _record(
        self, func: Any, args: tuple[Any, ...], reads: list[Tensor], writes: list[Tensor]
    ) -> None:
        name = func.overloadpacket.__name__
        same = writes and {_key(out) for out in writes} <= {_key(tensor) for tensor in reads}
        if same and name[-1] != "_":
            return  # a reshape that turned out to be a view
        for tensor in (*reads, *writes):
            self._sizes[_key(tensor)] = _elements(tensor)
        # Normalisation by the statistics of the input itself cannot be folded into a layer.
        folded = name in FOLDED_OPS and not (name.endswith("native_batch_norm") and args[5])
        self._operations.append(
            _Operation(
                tuple(dict.fromkeys(map(_key, reads))),
                tuple(dict.fromkeys(map(_key, writes))),
                folded or torch.Tag.pointwise in func.tags,
            )
        )
        if not folded:
            self.traffic_elements += sum(map(_moved, (*reads, *writes)))
        if name == "convolution":
            self.macs_conv3x3s1 += _macs_conv3x3s1(args, writes[0])

    def peak_elements(self, image: Tensor, output: Tensor) -> int:
        """Return the maximum of elements alive at once, from the order of operations."""
        end = len(self._operations)
        last_read: dict[int, int] = defaultdict(lambda: -1)
        for step, operation in enumerate(self._operations):
            for key in operation.reads:
                last_read[key] = step
        last_read[_key(output)] = end
        slot: dict[int, int] = {}  # memory -> the memory that it overwrites
        birth: dict[int, int] = {_key(image): 0}
        death: dict[int, int] = defaultdict(lambda: 0)
        sizes = self._sizes | {_key(image): image.numel()}

        def place(key: int) -> int:
            while key in slot:
                key = slot[key]
            return key

        for step, operation in enumerate(self._operations):
            for key in operation.writes:
                if place(key) in birth:
                    continue
                dying = [
                    read
                    for read in operation.reads
                    if last_read[read] == step and sizes[read] == sizes[key]
                ]
                if operation.overwrites_input and dying:
                    slot[key] = place(dying[0])
                else:
                    birth[key] = step
            for key in (*operation.reads, *operation.writes):
                death[place(key)] = step
        death[place(_key(output))] = end
        change: dict[int, int] = defaultdict(int)
        for key, born in birth.items():
            change[born] += sizes.get(key, 0)
            change[death[key] + 1] -= sizes.get(key, 0)
        alive = peak = 0
        for step in sorted(change):
            alive += change[step]
            peak = max(peak, alive)
        return peak


def _macs_conv3x3s1(args: tuple[Any, ...], output: Tensor) -> int:
    """Return the MACs of a dense 3x3 stride-1 convolution, 0 for any other convolution."""
    _, weight, _, stride, _, dilation, transposed, _, groups = args
    winograd = (
        tuple(weight.shape[2:]) == (3, 3)
        and set(stride) == {1}
        and set(dilation) == {1}
        and groups == 1
        and not transposed
    )
    return output.numel() * weight.shape[1] * 9 if winograd else 0


def _saved_for_backward(module: nn.Module, image: Tensor, constant: set[int]) -> int:
    """Return the elements (of 4 bytes) that autograd keeps between forward and backward pass."""
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _key(tensor) not in constant:
            saved[_key(tensor)] = tensor
        return tensor

    with (
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        module(image)
    return sum(-(-t.untyped_storage().nbytes() // 4) for t in saved.values())
