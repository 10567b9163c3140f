"""Indexing and slicing (keras.ops.numpy and core)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import (
    integer,
    list_of,
    option,
    optional,
)
from layergraph.errors import DataError
from layergraph.functional.call_context import CallContext
from layergraph.functional.exporting import has_any
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation
from layergraph.ops.shape_values import whole


class GetItem(Operation):
    """x[key]: integers, slices, an ellipsis and new axes, as in NumPy.

    Slices with a negative step, which torch lacks, are taken from the flipped axis.
    """

    reads_values = True
    computes_values = True

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor, key: Any) -> torch.Tensor:  # type: ignore[override]
        keys = key if isinstance(key, tuple) else tuple(key) if isinstance(key, list) else (key,)
        keys = tuple(_plain_slice(k) for k in keys)
        if Ellipsis in [k for k in keys if not isinstance(k, torch.Tensor)]:
            at = next(i for i, k in enumerate(keys) if k is Ellipsis)
            used = sum(1 for k in keys if k is not None and k is not Ellipsis)
            keys = (*keys[:at], *[slice(None)] * (x.ndim - used), *keys[at + 1 :])
        axis = 0
        forward = []
        for k in keys:
            if isinstance(k, slice) and k.step is not None and k.step < 0:
                picked = range(*k.indices(x.shape[axis]))
                x = x.flip(axis) if len(picked) else x
                last = x.shape[axis] - 1
                k = slice(last - picked.start, last - picked[-1] + 1, -k.step) if len(picked) else slice(0, 0)
            if context.symbolic_dims is not None and isinstance(k, slice) and context.symbolic_dims.is_unknown(x, axis):
                # As in Keras, a slice of an unknown length has an unknown length: data may be shorter than the slice.
                k = slice(None)
            if isinstance(k, torch.Tensor) and k.ndim == 0 and k.dtype is not torch.bool:
                # The index may depend on the data.
                x, k = x.index_select(axis, _within(k, x.shape[axis]).reshape(1)), 0
            forward.append(k)
            axis += k is not None
        return x[tuple(forward)]


def _within(indices: Any, length: int) -> torch.Tensor:
    """Non-negative indices, for indices that may count from the end. Raises DataError for one out of range."""
    chosen: torch.Tensor = indices.to(torch.int64)
    if has_any((chosen < -length) | (chosen >= length)):
        raise DataError(f"an index is out of range for {length} elements")
    return torch.where(chosen < 0, chosen + length, chosen)


def _plain_slice(key: Any) -> Any:
    """A slice, whose ends may be tensors of one element; in Keras 2's files {"start", "stop", "step"}."""
    if not isinstance(key, dict):
        return key
    ends = (key.get(name) for name in ("start", "stop", "step"))
    return slice(*(int(end.item()) if isinstance(end, torch.Tensor) else end for end in ends))


class Take(Operation):
    """Elements by index along an axis; negative indices count from the end (keras.ops.take)."""

    axis: int | None = option(optional(integer), default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor, indices: Any) -> torch.Tensor:  # type: ignore[override]
        chosen = torch.as_tensor(indices, device=x.device).to(torch.int64)
        if self.axis is None:
            x, axis = x.reshape(-1), 0
        else:
            axis = self.axis % x.ndim
        chosen = _within(chosen, x.shape[axis])
        picked = x.index_select(axis, chosen.reshape(-1))
        return picked.reshape(*x.shape[:axis], *chosen.shape, *x.shape[axis + 1 :])


class TakeAlongAxis(Operation):
    """One element per index (keras.ops.take_along_axis). Raises DataError for an index out of range."""

    axis: int | None = option(optional(integer), default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor, indices: Any) -> torch.Tensor:  # type: ignore[override]
        chosen = torch.as_tensor(indices, device=x.device).to(torch.int64)
        axis = self.axis
        if axis is None:
            x, chosen, axis = x.reshape(-1), chosen.reshape(-1), 0
        length = x.shape[axis]
        if has_any((chosen < -length) | (chosen >= length)):
            raise DataError(f"an index is out of range for {length} elements")
        return torch.take_along_dim(x, torch.where(chosen < 0, chosen + length, chosen), axis)


class Slice(Operation):
    """A block of the inputs, starting at the indices (keras.ops.slice)."""

    keras_module = "keras.src.ops.core"
    shape: Any = option(list_of(integer))

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor, start_indices: Any) -> torch.Tensor:  # type: ignore[override]
        starts = start_indices.tolist() if isinstance(start_indices, torch.Tensor) else start_indices
        for axis, (start, length) in enumerate(zip(starts, self.shape, strict=True)):
            length = inputs.shape[axis] - whole(start) if length < 0 else length
            inputs = inputs.narrow(axis, whole(start), length)
        return inputs


class SliceUpdate(Operation):
    """The inputs with a block replaced (keras.ops.slice_update)."""

    keras_module = "keras.src.ops.core"

    def forward(  # type: ignore[override]
        self, context: CallContext, w: Weights, inputs: torch.Tensor, start_indices: Any, updates: torch.Tensor
    ) -> torch.Tensor:
        starts = start_indices.tolist() if isinstance(start_indices, torch.Tensor) else start_indices
        place = tuple(slice(whole(s), whole(s) + n) for s, n in zip(starts, updates.shape, strict=True))
        result = inputs.clone()
        result[place] = updates.to(inputs.dtype)
        return result


OPERATIONS: dict[str, type[Operation]] = {
    "GetItem": GetItem,
    "Slice": Slice,
    "SliceUpdate": SliceUpdate,
    "Take": Take,
    "TakeAlongAxis": TakeAlongAxis,
}
