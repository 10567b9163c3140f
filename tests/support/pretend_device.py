"""A device that isn't there: the processor under another name, whose tensors don't mix with the processor's own.

What trains there would on a GPU, as far as it matters where tensors lie, and its numbers can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("pretend")  # type: ignore[no-untyped-call]
DEVICE = torch.device("pretend", 0)
_ATEN = torch.ops.aten
#: Operations that take indices from the processor, as on a GPU.
_INDEXING = (_ATEN.index.Tensor, _ATEN.index_put_.default, _ATEN._unsafe_index.Tensor)
#: Of a GPU alone, or nothing to a processor.
_DROPPED = ("device", "pin_memory", "non_blocking")
_library = torch.library.Library("aten", "IMPL")


class _There(torch.Tensor):
    """A tensor on the device; `inner` is the processor's."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> _There:
        made: _There = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _carried_out(function, args, kwargs or {})


class PretendDevice(TorchDispatchMode):
    """While it is entered, tensors can be made on DEVICE and moved there."""

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _carried_out(function, args, kwargs or {})


def _carried_out(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Calls the processor's function. Raises RuntimeError if tensors of both devices come together."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = {id(tensor.inner): tensor for tensor in tensors if isinstance(tensor, _There)}
    moves = function in (_ATEN._to_copy.default, _ATEN.copy_.default)
    # Single numbers of the processor are taken everywhere.
    strangers = [tensor for tensor in tensors if not isinstance(tensor, _There) and tensor.ndim]
    if there and strangers and not moves and function not in _INDEXING:
        raise RuntimeError(f"{function}: got tensors of shapes {[tuple(t.shape) for t in strangers]} from elsewhere")
    device = kwargs.get("device")
    goes_there = bool(there) if device is None else torch.device(device) == DEVICE
    plain = {name: value for name, value in kwargs.items() if name not in _DROPPED}
    if device is not None and not moves:
        plain["device"] = torch.device("cpu")
    inner_args, inner_kwargs = tree_map(_inner, (args, plain))
    result = function(*inner_args, **inner_kwargs)
    if function is _ATEN.copy_.default:
        return args[0]
    # What an operation in place gives back is what it was given.
    if not goes_there:
        return result
    return tree_map(lambda value: there[id(value)] if id(value) in there else _outer(value), result)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, _There) else value


def _outer(value: Any) -> Any:
    return _There(value) if isinstance(value, torch.Tensor) else value


def _empty(size: Any, stride: Any, **options: Any) -> torch.Tensor:
    return _There(torch.empty_strided(size, stride, dtype=options.get("dtype")))


def _copy(source: torch.Tensor, target: torch.Tensor, _: bool = False) -> torch.Tensor:
    _inner(target).copy_(_inner(source))
    return target


# `torch.tensor(..., device=...)` asks the device itself.
_library.impl("empty_strided", _empty, "PrivateUse1")
_library.impl("_copy_from", _copy, "PrivateUse1")
