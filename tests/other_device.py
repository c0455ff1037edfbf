"""A stand-in for a GPU: tensors whose device is not the CPU, on a machine that has only a CPU.

Their device is `meta`, and their values lie in ordinary tensors, so that results can be compared. As with a GPU, an
operation on tensors of both devices is an error. `waits` lists the calls that would wait for a GPU's queue.
(FakeTensorMode cannot stand in: without CUDA in its build, torch has no autograd for its fake CUDA tensors.)
"""

import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
TAKES_LENGTHS = {aten._ctc_loss.Tensor, aten._ctc_loss_backward.Tensor, aten._pack_padded_sequence.default}


class OnDevice(torch.Tensor):
    """A tensor on the other device; `held` has its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "OnDevice":
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device=DEVICE
        )
        made.held = held
        return made

    def __repr__(self, *_: Any) -> str:
        return f"OnDevice({self.held})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {}, [])


class OtherDevice(TorchDispatchMode):
    """While it is active, `OnDevice` tensors can be made, and `waits` grows."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {}, self.waits)


def values(tensor: torch.Tensor) -> torch.Tensor:
    """The values of a tensor of either device, on the CPU."""
    return tensor.held if isinstance(tensor, OnDevice) else tensor


def _computed(func: Any, args: Any, kwargs: Any, waits: list[str]) -> Any:
    tensors: list[torch.Tensor] = []
    _mapped(tensors.append, (args, kwargs))
    here = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    there = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.ndim > 0]
    target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    if not here and (target is None or target.type != DEVICE.type):
        return func(*args, **kwargs)
    copies = func in (aten._to_copy.default, aten.copy_.default)
    if here and there and not copies and func not in INDEXING | TAKES_LENGTHS:
        raise RuntimeError(f"{func} has tensors on {DEVICE} and on the CPU{_place()}")
    leaves = here and target is not None and target.type != DEVICE.type
    arrives = copies and there and not leaves and not (kwargs.get("non_blocking") or True in args[2:])
    booleans = func in INDEXING and any(index is not None and index.dtype == torch.bool for index in args[1])
    if func in READS or leaves or arrives or booleans or (func in INDEXING and here and there):
        waits.append(f"{func}{_place()}")
    if target is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    result = func(*_mapped(values, args), **_mapped(values, kwargs))
    if leaves:
        return result
    if torch.Tag.inplace_view in func.tags:
        with no_dispatch():
            func(*args, **kwargs)  # the shape of the tensor itself
    if func._schema.name.endswith("_") and isinstance(args[0], torch.Tensor):
        return args[0]
    if func is aten._pack_padded_sequence.default:
        return OnDevice(result[0]), result[1]  # the sizes stay on the CPU
    return _mapped(OnDevice, result)


def _mapped(function: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """The value with the function's result in place of each tensor. Faster than torch's `tree_map`."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, tuple | list):
        return type(value)([_mapped(function, part) for part in value])
    if isinstance(value, dict):
        return {name: _mapped(function, part) for name, part in value.items()}
    return value


def _place() -> str:
    """The lines of the package, or else of the test, that the call came from."""
    lines = [
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
        for frame in traceback.extract_stack()
        if "/emgscribe/" in frame.filename
    ]
    return " at " + " < ".join(reversed(lines[-3:])) if lines else ""
