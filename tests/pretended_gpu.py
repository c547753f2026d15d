"""A GPU that is not there: tensors that the code moves to ``cuda`` stay in memory, marked.

Operations compute real values, as on the CPU, and fail where they would on a GPU: between tensors
on different devices, at ``numpy()``, and at draws from a generator of another device. Draws from
the GPU's own generator fail too, because they would differ from those of the CPU.
"""

import contextlib

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from testbed.core import compute

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
_PROPERTIES = {
    torch.Tensor.device.__get__: lambda on_gpu: GPU if on_gpu else CPU,
    torch.Tensor.is_cuda.__get__: lambda on_gpu: on_gpu,
    torch.Tensor.is_cpu.__get__: lambda on_gpu: not on_gpu,
}
_TO_ARRAY = (torch.Tensor.numpy, torch.Tensor.__array__)
_ANY_INDEX = ("aten::index.Tensor", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_")
_CROSSING = ("aten::copy_", "aten::_to_copy")
NOT_DETERMINISTIC = frozenset(
    f"aten::{name}"
    for names in (
        ("_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "max_unpool2d"),
        ("fractional_max_pool2d_backward", "avg_pool3d_backward", "resize_", "put_", "histc"),
        ("upsample_linear1d_backward", "upsample_bilinear2d_backward"),
        ("upsample_bicubic2d_backward", "reflection_pad2d_backward", "replication_pad2d_backward"),
        ("nll_loss2d_forward", "nll_loss2d_backward", "_ctc_loss_backward"),
        ("grid_sampler_2d_backward", "kthvalue", "median.dim", "cumsum", "bincount"),
    )
    for name in names
)
"""Operations without a deterministic kernel for CUDA (``torch.use_deterministic_algorithms``)."""


_STORAGES = {}
"""Those on the GPU, of all tests: the code may keep tensors for later."""


class MixedDevicesError(RuntimeError):
    """An operation that a GPU refuses."""


class PretendedGpu:
    """Which tensors are on the GPU, and what was done with them.

    Attributes
    ----------
    operations : names of the operations that computed there.
    """

    def __init__(self):
        self.operations = set()
        self.within = False  # a call with tensors on the GPU, which may create more of them
        self._storages = _STORAGES

    def holds(self, tensor):
        """Return whether a tensor is on the GPU."""
        with torch._C.DisableTorchFunction():
            reference = self._storages.get(_address(tensor))
        return reference is not None

    def mark(self, tensor):
        """Declare a tensor of its own storage to be on the GPU."""
        with torch._C.DisableTorchFunction():
            # The reference keeps the address from being used again, and no values.
            storage = tensor.untyped_storage()
            self._storages[storage._cdata] = StorageWeakRef(storage)
        return tensor


def _address(tensor):
    try:
        return tensor.untyped_storage()._cdata
    except NotImplementedError:  # without storage
        return None


def _is_gpu(device):
    return (
        device is not None and not isinstance(device, int) and torch.device(device).type == "cuda"
    )


class _Functions(TorchFunctionMode):
    """Answers questions for the device, and moves tensors between the two."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = dict(options or {})
        first = arguments[0] if arguments else None
        if function in _PROPERTIES:
            return _PROPERTIES[function](self.gpu.holds(first))
        if function in _TO_ARRAY and self.gpu.holds(first):
            raise MixedDevicesError("can't convert cuda:0 device type tensor to numpy")
        if function is torch.Tensor.to:
            return self._to(*arguments, **options)
        if function in (torch.Tensor.cpu, torch.Tensor.cuda):
            return self._moved(first, function is torch.Tensor.cuda)
        if function is torch.Tensor.__deepcopy__:
            copy = function(*arguments, **options)
            return self.gpu.mark(copy) if self.gpu.holds(first) else copy
        if options.get("device") is not None:
            target = _is_gpu(options["device"])
            if target and function.__name__.startswith("rand"):
                raise MixedDevicesError(f"{function.__name__} draws at random on the GPU")
            made = function(*arguments, **(options | ({"device": CPU} if target else {})))
            if not isinstance(made, torch.Tensor):
                return made
            return self._moved(made, target)
        return self._called(function, arguments, options)

    def _called(self, function, arguments, options):
        values = tree_flatten((arguments, options))[0]
        held = any(isinstance(a, torch.Tensor) and self.gpu.holds(a) for a in values)
        before, self.gpu.within = self.gpu.within, held
        try:
            return function(*arguments, **options)
        finally:
            self.gpu.within = before

    def _to(self, tensor, *arguments, **options):
        target, rest = self.gpu.holds(tensor), []
        device, copy = options.pop("device", None), options.pop("copy", False)
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                target = self.gpu.holds(argument)
                rest.append(argument.dtype)
            elif isinstance(argument, str | torch.device):
                device = argument
            elif isinstance(argument, torch.dtype):
                rest.append(argument)
        target = target if device is None else _is_gpu(device)
        changed = tensor.to(*rest, **options) if rest or options else tensor
        moved = self._moved(changed, target)
        return moved.clone() if copy and moved is tensor else moved

    def _moved(self, tensor, target):
        if self.gpu.holds(tensor) == target:
            return tensor
        copy = tensor.clone()
        with torch._C.DisableTorchFunction():
            if target:
                return self.gpu.mark(copy)
            self.gpu._storages.pop(_address(copy), None)
            return copy


class _Operations(TorchDispatchMode):
    """Refuses operations between devices, and marks what is computed on the GPU."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        name = function.name()
        tensors = [a for a in tree_flatten((arguments, options))[0] if isinstance(a, torch.Tensor)]
        if name.startswith(_ANY_INDEX):
            indices = [index for index in arguments[1] if index is not None]
            if self.gpu.holds(arguments[0]):
                tensors = [t for t in tensors if all(t is not index for index in indices)]
        here = [tensor for tensor in tensors if self.gpu.holds(tensor)]
        there = [tensor for tensor in tensors if not self.gpu.holds(tensor)]
        crossing = name.startswith(_CROSSING)
        if here and not crossing:
            scalars = torch.Tag.pointwise in function.tags or "_foreach_" in name or "fill" in name
            scalars = scalars or name.startswith(_ANY_INDEX)
            in_place = function._schema.name.endswith("_") and not self.gpu.holds(tensors[0])
            if in_place or any(tensor.dim() or not scalars for tensor in there):
                shapes = [tuple(tensor.shape) for tensor in there]
                raise MixedDevicesError(f"{name}: cuda and cpu tensors, the latter of {shapes}")
            if torch.Tag.nondeterministic_seeded in function.tags:
                raise MixedDevicesError(f"{name} draws at random on the GPU")
            self.gpu.operations.add(name)
        results = function(*arguments, **options)
        created = self.gpu.within and not tensors  # one_hot, for one, creates zeros
        if created or (here and not (crossing and not self.gpu.holds(tensors[0]))):
            tree_map_only(torch.Tensor, self.gpu.mark, results)
        return results


@contextlib.contextmanager
def pretended_gpu():
    """Run a test as on a machine with a GPU, and compute there; yields the GPU.

    The modes hold in this thread, which computes everything of an inline run.
    """
    import pytest

    gpu = PretendedGpu()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "get_device_name", lambda device=None: "pretended")
        patch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share: None)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
        run_backward = torch.autograd._engine_run_backward

        def backward(*arguments, **options):
            with _Functions(gpu):  # switched off within torch.autograd.grad and Tensor.backward
                return run_backward(*arguments, **options)

        patch.setattr(torch.autograd, "_engine_run_backward", backward)
        with _Functions(gpu), _Operations(gpu), compute.computing_on(torch.device("cuda")):
            yield gpu
