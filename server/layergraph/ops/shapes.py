"""Operations that change an array's shape or the order of its axes (keras.ops.numpy)."""

from __future__ import annotations

import math
from typing import Any

import torch

from layergraph.config.options import (
    integer,
    list_of,
    one_or_list_of,
    option,
    optional,
)
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation


def listed(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def lengths_of(value: Any) -> list[int]:
    """The integers of a shape, which may be, or contain, tensors with known values."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    return [int(n) for n in (value if isinstance(value, (list, tuple)) else [value])]


class ExpandDims(Operation):
    """x with new axes of length 1 (keras.ops.expand_dims)."""

    computes_values = True
    inserts_axis = True

    axis: Any = option(one_or_list_of(integer))

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        axes = listed(self.axis)
        rank = x.ndim + len(axes)
        for axis in sorted(axis % rank for axis in axes):
            x = x.unsqueeze(axis)
        return x


class Squeeze(Operation):
    """x without axes of length 1 (keras.ops.squeeze)."""

    computes_values = True

    axis: Any = option(optional(one_or_list_of(integer)), default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        if self.axis is None:
            return x.squeeze()
        axes = listed(self.axis)
        if any(x.shape[axis] != 1 for axis in axes):
            raise GraphError(f"axis is {self.axis}, expected axes of length 1 of shape {tuple(x.shape)}")
        return x.squeeze(axes)


class Reshape(Operation):
    """x in another shape (keras.ops.reshape). `newshape` as an argument of the call may contain tensors."""

    reads_values = True
    computes_values = True
    newshape: Any = option(optional(one_or_list_of(lambda n: -1 if n is None else integer(n))), default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor, newshape: Any = None) -> torch.Tensor:
        lengths = lengths_of(self.newshape if newshape is None else newshape)
        known = context.symbolic_dims
        if known is not None and not _fits(x, lengths) and any(known.is_unknown(x, axis) for axis in range(x.ndim)):
            # The placeholder of an unknown length may not be divisible where real data is, e.g. rows times steps, and
            # products of several may be too large for int32.
            return x.new_empty(known.fill(tuple(None if n < 0 else n for n in lengths)))
        return x.reshape(lengths)


def _fits(x: torch.Tensor, lengths: list[int]) -> bool:
    """Whether x has the number of elements of a shape, in which one length may be -1."""
    known = math.prod(n for n in lengths if n != -1)
    return x.numel() == known if -1 not in lengths else known > 0 and x.numel() % known == 0


class Ravel(Operation):
    """x as a vector (keras.ops.ravel)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1)


class Transpose(Operation):
    """x with its axes in another order, reversed by default (keras.ops.transpose)."""

    axes: Any = option(optional(list_of(integer)), default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return x.permute(self.axes or tuple(range(x.ndim))[::-1])


class Swapaxes(Operation):
    """x with two axes swapped (keras.ops.swapaxes)."""

    axis1: int = option(integer)
    axis2: int = option(integer)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(self.axis1, self.axis2)


class Moveaxis(Operation):
    """x with axes moved (keras.ops.moveaxis)."""

    source: Any = option(one_or_list_of(integer))
    destination: Any = option(one_or_list_of(integer))

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return x.movedim(listed(self.source), listed(self.destination))


class BroadcastTo(Operation):
    """x broadcast to a shape (keras.ops.broadcast_to). `shape` as an argument of the call may contain tensors."""

    reads_values = True
    shape: Any = option(optional(list_of(integer)), default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor, shape: Any = None) -> torch.Tensor:
        lengths = lengths_of(self.shape if shape is None else shape)
        if x.is_meta and x.ndim and min(lengths, default=0) >= 0:
            # Shapes are inferred with any number of rows; the call itself takes as many as the shape has, or one.
            x = x[:1]
        return x.broadcast_to(lengths)


OPERATIONS: dict[str, type[Operation]] = {
    "BroadcastTo": BroadcastTo,
    "ExpandDims": ExpandDims,
    "Moveaxis": Moveaxis,
    "Ravel": Ravel,
    "Reshape": Reshape,
    "Squeeze": Squeeze,
    "Swapaxes": Swapaxes,
    "Transpose": Transpose,
}
