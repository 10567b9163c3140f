"""Keys of calls: calls with equal keys have equal output shapes, which are inferred once.

Deep models repeat the same few layers many times.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Hashable
from types import BuiltinFunctionType, EllipsisType, FunctionType
from typing import TYPE_CHECKING, Any, Generic, TypeGuard, TypeVar

import torch

from layergraph.config.options import Configurable
from layergraph.functional.dtypes import DTypePolicy
from layergraph.functional.invocation import Invocation
from layergraph.functional.weight import Weight

if TYPE_CHECKING:
    from layergraph.functional.layer import Layer

T = TypeVar("T")

#: Attributes that don't affect output shapes, and the weights, which are compared separately.
_IGNORED = frozenset(
    {
        "name",
        "inbound_nodes",
        "number",
        "own_class_name",
        "built",
        "_trainable",
        "announced_shape",
        "seed",
        "own_weights",
        "stored_form",
        "asked_rank",
        "lora",
        "lora_alpha",
    }
)
_IGNORED_ENDINGS = ("_initializer", "_regularizer", "_constraint")
#: Maximum number of items of a value that is compared.
_MAX_ITEMS = 64
_DEPTH = 8

_PLAIN = (str, bytes, type, FunctionType, BuiltinFunctionType, EllipsisType, DTypePolicy, torch.dtype, type(None))


class _NoKey(Exception):
    """A value can't be compared, so the call has no key."""


def call_key(invocation: Invocation) -> Hashable | None:
    """Returns a key that is equal for two calls of layers of one class and state on tensors of equal shapes, dtypes
    and masks. None if a layer's state or an argument can't be compared.
    """
    tensors = tuple((t.shape, t.dtype, t.mask_shape) for t in invocation.tensors)
    if any(tensor.values is not None for tensor in invocation.tensors):
        return None
    try:
        arguments = _frozen(invocation.template, _DEPTH)
        return _of_layer(invocation.layer, _DEPTH), arguments, tensors, invocation.unmasked, invocation.training
    except _NoKey:
        return None


def _of_layer(layer: Layer, depth: int) -> Hashable:
    if layer.inner_model is not None:
        raise _NoKey
    weights = tuple(_frozen(weight, depth) for weight in layer.own_weights)
    return type(layer), weights, _of_attributes(vars(layer), layer.sublayers.values(), depth)


def _of_attributes(state: dict[str, Any], sublayers: Collection[Layer], depth: int) -> Hashable:
    """The attributes; sublayers among them are left out, as they are compared separately."""
    return tuple(
        (name, None if any(value is known for known in sublayers) else _frozen(value, depth - 1))
        for name, value in state.items()
        if value is not None and name not in _IGNORED and not name.endswith(_IGNORED_ENDINGS)
    )


def _frozen(value: Any, depth: int) -> Hashable:
    """Returns `value` in a hashable form in which 1, 1.0 and True differ."""
    if isinstance(value, _PLAIN):
        return value
    kind = type(value)
    if isinstance(value, (int, float)):
        return kind, value
    if depth == 0:
        raise _NoKey
    if isinstance(value, (list, tuple)) and len(value) <= _MAX_ITEMS:
        return kind, tuple(_frozen(item, depth - 1) for item in value)
    if kind is dict and len(value) <= _MAX_ITEMS:
        return kind, tuple((_frozen(k, 1), _frozen(item, depth - 1)) for k, item in value.items())
    if kind is slice:
        return kind, tuple(_frozen(end, 1) for end in (value.start, value.stop, value.step))
    if isinstance(value, Weight):
        return Weight, value.name, value.shape, value.dtype, value.autocast
    if isinstance(value, Configurable):
        return _of_layer(value, depth) if _is_layer(value) else (kind, _of_attributes(vars(value), (), depth))
    raise _NoKey


def _is_layer(value: Configurable) -> TypeGuard[Layer]:
    return hasattr(value, "inner_model")


class CallCache(Generic[T]):
    """Results by call key, at most `max_size` of them; the oldest are dropped. Thread-safe."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._results: dict[Hashable, T] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable | None) -> T | None:
        """Returns the result kept for `key`, or None."""
        return None if key is None else self._results.get(key)

    def keep(self, key: Hashable | None, result: T) -> None:
        """Keeps a result, dropping the oldest if the cache is full. Does nothing if `key` is None."""
        if key is not None:
            with self._lock:
                if len(self._results) >= self._max_size:
                    self._results.pop(next(iter(self._results)))
                self._results[key] = result
