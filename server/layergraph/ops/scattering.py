"""Scatters, segment reductions and counts (keras.ops.core, math and numpy)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from layergraph.config.options import (
    boolean,
    list_of,
    nonnegative_int,
    one_of,
    option,
    optional,
    positive_int,
)
from layergraph.errors import ConfigError, DataError
from layergraph.functional.call_context import CallContext
from layergraph.functional.exporting import has_any
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation, unknown_length

#: Maximum length of a result whose length depends on the data.
_MOST = 10_000_000


def _among(indices: torch.Tensor, lengths: tuple[int, ...]) -> torch.Tensor:
    """Flat indices (n,) for tuples of indices (n, axes). Raises DataError for an index out of range."""
    sizes = torch.tensor(lengths, device=indices.device)
    indices = indices.to(torch.int64)
    indices = torch.where(indices < 0, indices + sizes, indices)
    if has_any((indices < 0) | (indices >= sizes)):
        raise DataError(f"an index is out of range for shape {lengths}")
    strides = [math.prod(lengths[axis + 1 :]) for axis in range(len(lengths))]
    return (indices * torch.tensor(strides, device=indices.device)).sum(-1)


class Scatter(Operation):
    """Zeros with the values added at the indices (keras.ops.scatter). Keras up to 3.10 passes `shape` in the call."""

    keras_module = "keras.src.ops.core"
    reads_values = True

    shape: Any = option(optional(list_of(nonnegative_int)), default=None)

    def forward(self, context: CallContext, w: Weights, indices: Any, values: Any, shape: Any = None) -> Any:  # type: ignore[override]
        lengths = tuple(int(n) for n in (self.shape if shape is None else shape))
        like = values if isinstance(values, torch.Tensor) else indices
        values = torch.as_tensor(values, device=like.device)
        indices = torch.as_tensor(indices, device=like.device)
        axes = indices.shape[-1]
        places = _among(indices.reshape(-1, axes), lengths[:axes])
        rest = lengths[axes:]
        flat = values.new_zeros((math.prod(lengths[:axes]), *rest))
        return flat.index_add(0, places, values.reshape(-1, *rest)).reshape(lengths)


class ScatterUpdate(Operation):
    """The inputs with the updates at the indices (keras.ops.scatter_update)."""

    keras_module = "keras.src.ops.core"

    reduction: Any = option(optional(one_of("add", "max", "min", "mul")), default=None)

    def forward(  # type: ignore[override]
        self, context: CallContext, w: Weights, inputs: torch.Tensor, indices: Any, updates: Any
    ) -> torch.Tensor:
        indices = torch.as_tensor(indices, device=inputs.device)
        updates = torch.as_tensor(updates, device=inputs.device).to(inputs.dtype)
        axes = indices.shape[-1]
        places = _among(indices.reshape(-1, axes), tuple(inputs.shape[:axes]))
        rest = inputs.shape[axes:]
        flat = inputs.reshape(-1, *rest)
        updates = updates.broadcast_to(*indices.shape[:-1], *rest).reshape(-1, *rest)
        if self.reduction is None:
            changed = flat.index_copy(0, places, updates)
        elif self.reduction == "add":
            changed = flat.index_add(0, places, updates)
        else:
            how = {"max": "amax", "min": "amin", "mul": "prod"}[self.reduction]
            where = places.reshape(-1, *[1] * len(rest)).expand(updates.shape)
            changed = flat.scatter_reduce(0, where, updates, how)
        return changed.reshape(inputs.shape)


class _Segment(Operation):
    keras_module = "keras.src.ops.math"

    num_segments: int | None = option(optional(positive_int), default=None)
    sorted: bool = option(boolean, default=False)

    reduce: ClassVar[str]
    neutral: ClassVar[float]

    def forward(self, context: CallContext, w: Weights, data: torch.Tensor, segment_ids: Any) -> torch.Tensor:  # type: ignore[override]
        """One row per segment; rows with a segment id out of range are ignored."""
        ids = torch.as_tensor(segment_ids, device=data.device).to(torch.int64)
        count = self.num_segments
        if count is None:
            # The number of segments depends on the data.
            count = unknown_length(context) if ids.is_meta else int(ids.max()) + 1
            if count > _MOST:
                raise DataError(f"got segment id {count - 1}, expected at most {_MOST}")
        ids = torch.where((ids < 0) | (ids >= count), count, ids)
        where = ids.reshape(-1, *[1] * (data.ndim - 1)).expand(data.shape)
        # In float32, as in Keras: empty segments are -inf for a maximum, the smallest integer after the conversion.
        empty = torch.full((count + 1, *data.shape[1:]), self.neutral, device=data.device)
        return empty.scatter_reduce(0, where, data.float(), self.reduce)[:-1].to(data.dtype)


class SegmentSum(_Segment):
    """keras.ops.segment_sum."""

    reduce, neutral = "sum", 0.0


class SegmentMax(_Segment):
    """keras.ops.segment_max."""

    reduce, neutral = "amax", -math.inf


class SegmentMin(_Segment):
    """keras.ops.segment_min."""

    reduce, neutral = "amin", math.inf


class SegmentProd(_Segment):
    """keras.ops.segment_prod."""

    reduce, neutral = "prod", 1.0


class Bincount(Operation):
    """Counts of each number of a vector or of each row (keras.ops.bincount).

    Raises DataError for negative or too large numbers.
    """

    minlength: int = option(nonnegative_int, default=0)
    sparse: bool = option(boolean, default=False)

    def setup(self) -> None:
        """Raises ConfigError for a sparse result."""
        if self.sparse:
            raise ConfigError("Bincount: option 'sparse' is true, expected false")

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        if x.is_meta:
            length = unknown_length(context)
            return x.new_empty((*x.shape[:-1], length), dtype=torch.int32)
        largest = int(x.max()) if x.numel() else -1
        if largest > _MOST or (x.numel() and int(x.min()) < 0):
            raise DataError(f"got numbers from {int(x.min())} to {largest}, expected from 0 to {_MOST}")
        counts = torch.zeros((*x.shape[:-1], max(self.minlength, largest + 1)), dtype=torch.int32, device=x.device)
        return counts.scatter_add(-1, x.to(torch.int64), torch.ones_like(x, dtype=torch.int32))


OPERATIONS: dict[str, type[Operation]] = {
    "Bincount": Bincount,
    "Scatter": Scatter,
    "ScatterUpdate": ScatterUpdate,
    "SegmentMax": SegmentMax,
    "SegmentMin": SegmentMin,
    "SegmentProd": SegmentProd,
    "SegmentSum": SegmentSum,
}
