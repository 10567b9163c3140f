"""Operations in terms of simpler ones, where torch's exporter to ONNX lacks them or torch.export fixes their lengths.

They apply while calls are recorded. Formulas are torch's own documentation's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class SimplerOperations(TorchFunctionMode):
    """In the block, torch's functions of a table are replaced."""

    def __init__(self, table: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self._table = table

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._table.get(func, func)(*args, **(kwargs or {}))


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
    """Products over 2, 4, 8, ... elements (Hillis and Steele)."""
    x = x if dtype is None else x.to(dtype)
    x = x if x.is_floating_point() else x.to(torch.int64)
    length, reach = int(x.shape[dim]), 1
    while reach < length:
        before = torch.ones_like(x.narrow(dim, 0, reach))
        x = x * torch.cat([before, x.narrow(dim, 0, length - reach)], dim)
        reach *= 2
    return x


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


def _isclose(
    x: torch.Tensor, y: torch.Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> torch.Tensor:
    if not x.is_floating_point():
        x, y = x.to(torch.float64), y.to(torch.float64)
    near = ((x - y).abs() <= atol + rtol * y.abs()) & y.isfinite()
    near = near | (x == y)
    return near | (x.isnan() & y.isnan()) if equal_nan else near


def _logaddexp(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    largest, off = torch.maximum(x, y), (x - y).abs()
    # Equal infinities have no difference.
    return torch.where(off.isfinite(), largest + torch.log1p(torch.exp(-off)), largest)


def _logaddexp2(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _logaddexp(x * math.log(2), y * math.log(2)) / math.log(2)


def _fmax(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    larger = torch.maximum(x, y)
    return torch.where(x.isnan(), y, torch.where(y.isnan(), x, larger)) if larger.is_floating_point() else larger


def _fmin(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    smaller = torch.minimum(x, y)
    return torch.where(x.isnan(), y, torch.where(y.isnan(), x, smaller)) if smaller.is_floating_point() else smaller


def _hypot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    large, small = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    ratio = small / torch.where(large == 0, torch.ones_like(large), large)
    infinite = x.isinf() | y.isinf()
    return torch.where(infinite, torch.full_like(large, math.inf), large * torch.sqrt(1 + ratio * ratio))


def _trunc(x: torch.Tensor) -> torch.Tensor:
    return torch.sign(x) * torch.floor(x.abs()) if x.is_floating_point() else x


def _sinc(x: torch.Tensor) -> torch.Tensor:
    angle = math.pi * x
    return torch.where(x == 0, torch.ones_like(x), torch.sin(angle) / torch.where(x == 0, torch.ones_like(x), angle))


def _expm1(x: torch.Tensor) -> torch.Tensor:
    """2 tanh(x/2) / (1 - tanh(x/2)) near 0, where exp(x) - 1 cancels."""
    half = torch.tanh(x / 2)
    return torch.where(x.abs() < 1, 2 * half / (1 - half), torch.exp(x) - 1)


def _sinh(x: torch.Tensor) -> torch.Tensor:
    return (_expm1(x) - _expm1(-x)) / 2


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
    x = x.movedim((dim1, dim2), (-2, -1))
    rows, columns = int(x.shape[-2]), int(x.shape[-1])
    row, column = max(-offset, 0), max(offset, 0)
    count = max(0, min(rows - row, columns - column))
    places = torch.arange(count) * (columns + 1) + row * columns + column
    return x.flatten(-2).index_select(-1, places)


def _clamp(x: torch.Tensor, min: Any = None, max: Any = None) -> torch.Tensor:
    """With the type of integers and fractions, which ONNX doesn't find itself."""
    for bound in (min, max):
        x = x if bound is None or isinstance(bound, torch.Tensor) else x.to(torch.result_type(x, bound))
    return torch.clamp(x, min, max)


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


#: For every format.
ALWAYS: Mapping[Any, Callable[..., Any]] = {torch.diff: _diff, torch.take_along_dim: _take_along_dim}

#: For ONNX.
FOR_ONNX: Mapping[Any, Callable[..., Any]] = {
    **ALWAYS,
    torch.argsort: _argsort,
    torch.Tensor.argsort: _argsort,
    torch.clamp: _clamp,
    torch.Tensor.clamp: _clamp,
    torch.count_nonzero: _count_nonzero,
    torch.cosh: lambda x: (torch.exp(x) + torch.exp(-x)) / 2,
    torch.cumprod: _cumprod,
    torch.deg2rad: lambda x: x * (math.pi / 180),
    torch.diagonal: _diagonal,
    torch.dstack: _dstack,
    torch.exp2: lambda x: torch.exp(x * math.log(2)),
    torch.expm1: _expm1,
    torch.fmax: _fmax,
    torch.fmin: _fmin,
    torch.heaviside: lambda x, values: torch.where(x == 0, values.to(x.dtype), (x > 0).to(x.dtype)),
    torch.hypot: _hypot,
    torch.isclose: _isclose,
    torch.isneginf: lambda x: x == -math.inf,
    torch.isposinf: lambda x: x == math.inf,
    torch.logaddexp: _logaddexp,
    torch.logaddexp2: _logaddexp2,
    torch.nanmean: _nanmean,
    torch.quantile: _quantile,
    torch.rad2deg: lambda x: x * (180 / math.pi),
    torch.rot90: _rot90,
    torch.sinc: _sinc,
    torch.sinh: _sinh,
    torch.sort: _sort,
    torch.Tensor.sort: _sort,
    torch.Tensor.squeeze: _squeeze,
    torch.trunc: _trunc,
    torch.xlogy: lambda x, y: torch.where((x == 0) & ~y.isnan(), torch.zeros_like(x), x * torch.log(y)),
}
