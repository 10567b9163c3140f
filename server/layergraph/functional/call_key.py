"""What makes two calls alike: then the shapes that one gives are those of the other, and are inferred once.

Deep models repeat a few layers many times.
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

#: Attributes that say nothing of the shapes that a layer gives, and the weights, which are looked at on their own.
_ASIDE = frozenset({"name", "inbound_nodes", "built", "_trainable", "announced_shape", "seed", "own_weights"})
_ASIDE_ENDINGS = ("_initializer", "_regularizer", "_constraint")
#: Larger values aren't compared.
_MOST_ITEMS = 64
_DEPTH = 8

_PLAIN = (str, bytes, type, FunctionType, BuiltinFunctionType, EllipsisType, DTypePolicy, torch.dtype, type(None))


class _NoKey(Exception):
    """A value can't be compared: it is only like itself."""


def call_key(invocation: Invocation) -> Hashable | None:
    """Equal for two calls of layers of one class and state on tensors of the same shapes, types and masks.

    None where a layer's state or an argument can't be compared.
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
    """The attributes; those that are sublayers are looked at where they are listed as such."""
    return tuple(
        (name, None if any(value is known for known in sublayers) else _frozen(value, depth - 1))
        for name, value in state.items()
        if value is not None and name not in _ASIDE and not name.endswith(_ASIDE_ENDINGS)
    )


def _frozen(value: Any, depth: int) -> Hashable:
    """`value` as something hashable, in which 1, 1.0 and True differ."""
    if isinstance(value, _PLAIN):
        return value
    kind = type(value)
    if isinstance(value, (int, float)):
        return kind, value
    if depth == 0:
        raise _NoKey
    if isinstance(value, (list, tuple)) and len(value) <= _MOST_ITEMS:
        return kind, tuple(_frozen(item, depth - 1) for item in value)
    if kind is dict and len(value) <= _MOST_ITEMS:
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
    """The latest results by likeness, at most `most` of them. Threads may share one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._results: dict[Hashable, T] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable | None) -> T | None:
        """What was kept for `key`, or None."""
        return None if key is None else self._results.get(key)

    def keep(self, key: Hashable | None, result: T) -> None:
        """Keeps a result in place of the oldest, if there are many; None is no key."""
        if key is not None:
            with self._lock:
                if len(self._results) >= self._most:
                    self._results.pop(next(iter(self._results)))
                self._results[key] = result
