"""Sorting and searching (keras.ops.numpy and math)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import (
    boolean,
    integer,
    list_of,
    nonnegative_int,
    number,
    one_of,
    one_or_list_of,
    option,
    optional,
    positive_int,
)
from layergraph.functional.call_context import CallContext
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation, as_tensors, unknown_length


class Sort(Operation):
    """The sorted elements (keras.ops.sort)."""

    axis: int | None = option(optional(integer), default=-1)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return torch.sort(x.reshape(-1)).values if self.axis is None else torch.sort(x, self.axis).values


class Argsort(Operation):
    """The indices that sort the elements (keras.ops.argsort)."""

    axis: int | None = option(optional(integer), default=-1)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        x, axis = (x.reshape(-1), 0) if self.axis is None else (x, self.axis)
        return torch.argsort(x, dim=axis, stable=True).to(torch.int32)


class TopK(Operation):
    """The largest elements of the last axis, and their indices (keras.ops.top_k)."""

    keras_module = "keras.src.ops.math"

    k: int = option(positive_int)
    sorted: bool = option(boolean, default=True)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> list[torch.Tensor]:
        values, indices = torch.topk(x, self.k, sorted=True)
        return [values, indices.to(torch.int32)]


class InTopK(Operation):
    """Whether the target is among the k largest predictions, including ties (keras.ops.in_top_k)."""

    keras_module = "keras.src.ops.math"

    k: int = option(positive_int)

    def forward(  # type: ignore[override]
        self, context: CallContext, w: Weights, targets: torch.Tensor, predictions: torch.Tensor
    ) -> torch.Tensor:
        chosen = predictions.gather(-1, targets.to(torch.int64)[:, None])
        return (predictions > chosen).sum(-1) < self.k


class Digitize(Operation):
    """Index of the bin of each value (keras.ops.digitize)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor, bins: Any) -> torch.Tensor:  # type: ignore[override]
        edges = torch.as_tensor(bins, device=x.device)
        return torch.bucketize(x.contiguous(), edges.to(x.dtype) if x.is_floating_point() else edges, right=True).to(
            torch.int32
        )


class SearchSorted(Operation):
    """Indices at which values would be inserted into a sorted sequence (keras.ops.searchsorted)."""

    side: str = option(one_of("left", "right"), default="left")

    def forward(self, context: CallContext, w: Weights, sorted_sequence: Any, values: Any) -> torch.Tensor:  # type: ignore[override]
        sequence, wanted = as_tensors(sorted_sequence, values)
        return torch.searchsorted(sequence, wanted, side=self.side).to(torch.int32)


class Argpartition(Operation):
    """Indices of the elements, those of the smallest first (keras.ops.argpartition). As in Keras, compared as int32."""

    kth: int = option(nonnegative_int)
    axis: int | None = option(optional(integer), default=-1)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        x, axis = (x.reshape(-1), 0) if self.axis is None else (x, self.axis)
        return torch.argsort(x.to(torch.int32), dim=axis, stable=True).to(torch.int32)


class CountNonzero(Operation):
    """Number of elements that aren't 0 (keras.ops.count_nonzero)."""

    axis: Any = option(optional(one_or_list_of(integer)), default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        if self.axis == ():
            return (x != 0).to(torch.int32)
        return torch.count_nonzero(x, self.axis).to(torch.int32)


class Nonzero(Operation):
    """Indices of the elements that aren't 0, by axis (keras.ops.nonzero). Their number depends on the data."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> list[torch.Tensor]:
        if x.is_meta:
            return [x.new_empty(unknown_length(context), dtype=torch.int32) for _ in range(x.ndim)]
        return [axis.to(torch.int32) for axis in torch.nonzero(x, as_tuple=True)]


class IsIn(Operation):
    """Whether each element of x1 is in x2 (keras.ops.isin)."""

    assume_unique: bool = option(boolean, default=False)
    invert: bool = option(boolean, default=False)

    def forward(self, context: CallContext, w: Weights, x1: Any, x2: Any) -> torch.Tensor:  # type: ignore[override]
        a, b = as_tensors(x1, x2)
        dtype = torch.promote_types(a.dtype, b.dtype)
        dtype = torch.int32 if dtype is torch.bool else dtype
        return torch.isin(a.to(dtype), b.to(dtype), invert=self.invert)


class UnravelIndex(Operation):
    """The index along each axis (keras.ops.unravel_index)."""

    shape: Any = option(list_of(positive_int))

    def forward(self, context: CallContext, w: Weights, indices: torch.Tensor) -> list[torch.Tensor]:
        return [index.to(indices.dtype) for index in torch.unravel_index(indices, list(self.shape))]


class Histogram(Operation):
    """Number of elements in each bin, and the edges of the bins (keras.ops.histogram)."""

    bins: int = option(positive_int, default=10)
    range: Any = option(optional(list_of(number)), default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> list[torch.Tensor]:
        x = x.reshape(-1) if x.is_floating_point() else x.reshape(-1).to(torch.float32)
        if x.is_meta:
            return [x.new_empty(self.bins), x.new_empty(self.bins + 1)]
        found = torch.histogram(x.cpu(), self.bins, range=self.range)
        return [found.hist.to(x.device), found.bin_edges.to(x.device)]


class Select(Operation):
    """The choice for the first condition that is true (keras.ops.select)."""

    def forward(  # type: ignore[override]
        self, context: CallContext, w: Weights, condlist: Any, choicelist: Any, default: Any = 0
    ) -> torch.Tensor:
        like = next(item for item in [*condlist, *choicelist] if isinstance(item, torch.Tensor))
        y = torch.as_tensor(default, device=like.device)
        for condition, choice in reversed(list(zip(condlist, choicelist, strict=True))):
            y = torch.where(
                torch.as_tensor(condition, device=like.device), torch.as_tensor(choice, device=like.device), y
            )
        return y


class Unique(Operation):
    """The sorted distinct elements; without `size`, their number depends on the data (keras.ops.unique)."""

    sorted: bool = option(boolean, default=True)
    return_index: bool = option(boolean, default=False)
    return_inverse: bool = option(boolean, default=False)
    return_counts: bool = option(boolean, default=False)
    axis: int | None = option(optional(integer), default=None)
    size: int | None = option(optional(positive_int), default=None)
    fill_value: Any = option(optional(number), default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> Any:
        flat, axis = (x.reshape(-1), 0) if self.axis is None else (x, self.axis % x.ndim)
        shape = x.shape if self.axis is None else (flat.shape[axis],)
        if x.is_meta:
            count = self.size or unknown_length(context)
            values = flat.new_empty((*flat.shape[:axis], count, *flat.shape[axis + 1 :]))
            index, inverse, counts = (flat.new_empty(n, dtype=torch.int64) for n in ((count,), shape, (count,)))
            return self._requested(values, index, inverse, counts)
        values, inverse, counts = torch.unique(flat, return_inverse=True, return_counts=True, dim=axis)
        order = torch.arange(flat.shape[axis], device=x.device)
        index = order.new_empty(values.shape[axis]).scatter_reduce(0, inverse, order, "amin", include_self=False)
        fill = 0 if self.fill_value is None else self.fill_value
        # Keras pads the indices with 1.
        values, index, counts = self._sized(values, axis, fill), self._sized(index, 0, 1), self._sized(counts, 0, 0)
        return self._requested(values, index, inverse.reshape(shape), counts)

    def _sized(self, x: torch.Tensor, axis: int, fill: float) -> torch.Tensor:
        length = x.shape[axis]
        if self.size is None or length == self.size:
            return x
        if length > self.size:
            return x.narrow(axis, 0, self.size)
        more = torch.full((*x.shape[:axis], self.size - length, *x.shape[axis + 1 :]), fill, device=x.device)
        return torch.cat([x, more.to(x.dtype)], axis)

    def _requested(self, *found: torch.Tensor) -> Any:
        wanted = (True, self.return_index, self.return_inverse, self.return_counts)
        results = [item for item, include in zip(found, wanted, strict=True) if include]
        return results if len(results) > 1 else results[0]


OPERATIONS: dict[str, type[Operation]] = {
    "Unique": Unique,
    "Select": Select,
    "Histogram": Histogram,
    "UnravelIndex": UnravelIndex,
    "IsIn": IsIn,
    "Nonzero": Nonzero,
    "CountNonzero": CountNonzero,
    "Argpartition": Argpartition,
    "Argsort": Argsort,
    "Digitize": Digitize,
    "InTopK": InTopK,
    "SearchSorted": SearchSorted,
    "Sort": Sort,
    "TopK": TopK,
}
