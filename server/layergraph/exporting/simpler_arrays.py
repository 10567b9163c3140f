"""Operations on axes in terms of simpler ones (see `simpler`). Formulas are torch's own documentation's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch

from layergraph.functional.exporting import is_recorded_for_file
from layergraph.layers.rnn.recorded_loop import recorded_loop


def _take_along_dim(x: torch.Tensor, indices: torch.Tensor, dim: int) -> torch.Tensor:
    axis = dim % x.ndim
    common = list(torch.broadcast_shapes(_without(x, axis), _without(indices, axis)))  # type: ignore[no-untyped-call]
    wide = [[*common[:axis], tensor.shape[axis], *common[axis + 1 :]] for tensor in (x, indices)]
    return x.expand(wide[0]).gather(axis, indices.expand(wide[1]))


def _without(tensor: torch.Tensor, axis: int) -> list[int]:
    """The shape, with length 1 on an axis."""
    return [*tensor.shape[:axis], 1, *tensor.shape[axis + 1 :]]


def _sort(x: torch.Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """By `topk`, which in ONNX keeps the order of equal values, for the types that it has there."""
    kept = x.dtype in (torch.float32, torch.float64, torch.int32, torch.int64)
    wide = x if kept else x.to(torch.float32 if x.is_floating_point() else torch.int32)
    values, indices = torch.topk(wide, x.shape[dim], dim, largest=descending, sorted=True)
    return torch.return_types.sort((values.to(x.dtype), indices))


def _argsort(x: torch.Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> torch.Tensor:
    indices: torch.Tensor = _sort(x, dim, descending)[1]
    return indices


def _cumprod(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """As a loop, so that the axis may have any length."""
    kept = x.is_floating_point() or x.is_complex()
    x = x.to(dtype or (x.dtype if kept else torch.int64))
    if not is_recorded_for_file():
        return torch.cumprod(x, dim)
    steps = x.movedim(dim, 0)[None, :, None]
    start = torch.ones_like(steps[:, 0])
    products, _ = recorded_loop(lambda one, before: [before[0] * one], steps, [start], None, [1])
    return products[0, :, 0].movedim(0, dim)


def _tensor_split(x: torch.Tensor, given: Any, dim: int = 0) -> tuple[torch.Tensor, ...]:
    """A number of parts, the first ones longer; or parts up to given places."""
    length = x.shape[dim]
    if not isinstance(given, int):
        ends = [min(place % length if place < 0 else place, length) for place in given]
        return tuple(
            x.narrow(dim, start, max(end - start, 0)) for start, end in zip([0, *ends], [*ends, length], strict=True)
        )
    parts, start = [], length * 0
    for place in range(given):
        size = (length + given - 1 - place) // given
        parts.append(x.narrow(dim, start, size))
        start = start + size
    return tuple(parts)


def _cat(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    return torch.cat(_of_one_type(tensors), dim)


def _stack(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    return torch.stack(_of_one_type(tensors), dim)


def _hstack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    tensors = _of_one_type([torch.atleast_1d(tensor) for tensor in tensors])  # type: ignore[no-untyped-call]
    return torch.cat(tensors, 0 if tensors[0].ndim == 1 else 1)


def _vstack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return _cat([torch.atleast_2d(tensor) for tensor in tensors], 0)  # type: ignore[no-untyped-call]


def _of_one_type(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    wide = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    return [tensor.to(wide) for tensor in tensors]


def _diff(x: torch.Tensor, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> torch.Tensor:
    x = torch.cat([part for part in (prepend, x, append) if part is not None], dim)
    for _ in range(n):
        later, earlier = (x.narrow(dim, start, x.shape[dim] - 1) for start in (1, 0))
        x = later ^ earlier if x.dtype == torch.bool else later - earlier
    return x


def _rot90(x: torch.Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> torch.Tensor:
    first, second = dims
    turned = {0: (), 1: (second,), 2: (first, second), 3: (first,)}[k % 4]
    x = x.flip(turned) if turned else x.clone()
    return x.transpose(first, second) if k % 2 else x


def _count_nonzero(x: torch.Tensor, dim: Any = None) -> torch.Tensor:
    counted = (x != 0).to(torch.int64)
    return counted.sum() if dim is None else counted.sum(dim)


def _dstack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([_three_axes(tensor) for tensor in tensors], 2)


def _three_axes(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(1, -1, 1) if x.ndim < 2 else x.unsqueeze(2) if x.ndim == 2 else x


def _quantile(
    x: torch.Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> torch.Tensor:
    """Between the two neighbours in the sorted order; NaN if there is a NaN."""
    rank, axis = x.ndim, dim
    ordered = _sort(x.reshape(-1) if axis is None else x.movedim(axis, -1))[0]
    q = torch.as_tensor(q, dtype=x.dtype)
    places = q.reshape(-1) * (ordered.shape[-1] - 1)
    below, above = (ordered.index_select(-1, end.to(torch.int64)) for end in (places.floor(), places.ceil()))
    share = {
        "linear": places - places.floor(),
        "lower": torch.zeros_like(places),
        "higher": torch.ones_like(places),
        "midpoint": torch.full_like(places, 0.5),
        "nearest": places.round() - places.floor(),
    }[interpolation]
    found = torch.where(ordered.isnan().any(-1, keepdim=True), math.nan, below + share * (above - below))
    found = found.movedim(-1, 0)
    if keepdim:
        found = found.reshape(-1, *[1] * rank) if axis is None else found.unsqueeze(axis % rank + 1)
    return found if q.ndim else found[0]


def _diagonal(x: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> torch.Tensor:
    """With as many rows as there are columns, if there are more: a slice finds the smaller number for any lengths."""
    x = x.movedim((dim1, dim2), (-2, -1))[..., max(-offset, 0) :, max(offset, 0) :]
    x = x[..., : x.shape[-1], :]
    column = torch.cumsum(torch.ones_like(x[..., :1], dtype=torch.int64), -2) - 1
    return x.gather(-1, column).squeeze(-1)


def _squeeze(x: torch.Tensor, *dims: Any) -> torch.Tensor:
    """Several axes one by one, the last first."""
    if len(dims) == 1 and isinstance(dims[0], (list, tuple)):
        for axis in sorted((axis % x.ndim for axis in dims[0]), reverse=True):
            x = x.squeeze(axis)
        return x
    return x.squeeze(*dims)


def _nanmean(x: torch.Tensor, dim: Any = None, keepdim: bool = False) -> torch.Tensor:
    known = ~x.isnan()
    dims = list(range(x.ndim)) if dim is None else dim
    total = torch.where(known, x, torch.zeros_like(x)).sum(dims, keepdim=keepdim)
    return total / known.to(x.dtype).sum(dims, keepdim=keepdim)


ARRAYS: Mapping[Any, Callable[..., Any]] = {
    torch.argsort: _argsort,
    torch.cat: _cat,
    torch.count_nonzero: _count_nonzero,
    torch.cumprod: _cumprod,
    torch.diagonal: _diagonal,
    torch.dstack: _dstack,
    torch.hstack: _hstack,
    torch.nanmean: _nanmean,
    torch.quantile: _quantile,
    torch.rot90: _rot90,
    torch.sort: _sort,
    torch.stack: _stack,
    torch.Tensor.argsort: _argsort,
    torch.Tensor.sort: _sort,
    torch.Tensor.squeeze: _squeeze,
    torch.tensor_split: _tensor_split,
    torch.vstack: _vstack,
    torch.take_along_dim: _take_along_dim,
    torch.diff: _diff,
}
