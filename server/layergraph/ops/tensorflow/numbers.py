"""TensorFlow functions on numbers that Keras 3 lacks or defines differently (tf.math, tf.nn)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from layergraph.errors import DataError
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.exporting import has_any
from layergraph.ops.operation import Operation, as_tensors, function_node

#: Integers that TensorFlow divides as float32; wider ones as float64.
_SHORT = (torch.int8, torch.uint8, torch.int16, torch.uint16)
#: Maximum length of a result whose length depends on the data.
_MOST = 10_000_000


def axes_of(x: torch.Tensor, axis: Any) -> list[int]:
    """Axes as a list; all of them by default."""
    if axis is None:
        return list(range(x.ndim))
    return [int(axis)] if isinstance(axis, int) else [int(a) for a in axis]


def _two(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda a, b: function(*as_tensors(a, b))


# Element by element.


def _divided(x: Any, y: Any) -> torch.Tensor:
    a, b = as_tensors(x, y)
    if a.is_floating_point() or b.is_floating_point() or a.is_complex() or b.is_complex():
        return a / b
    wide = torch.float32 if a.dtype in _SHORT else torch.float64
    return a.to(wide) / b.to(wide)


def _divided_no_nan(x: Any, y: Any) -> torch.Tensor:
    a, b = as_tensors(x, y)
    quotient = _divided(a, b)
    return torch.where(b == 0, torch.zeros_like(quotient), quotient)


def _floor_divided(x: Any, y: Any) -> torch.Tensor:
    a, b = as_tensors(x, y)
    if a.is_floating_point() or b.is_floating_point():
        # As in TensorFlow, the quotient is rounded before floor: 1 // 0.1 is 10, but 9 in Python.
        return torch.floor(a / b)
    if has_any(b == 0):
        raise DataError("integer division by zero")
    return torch.floor_divide(a, b)


def _without_nan(x: Any, y: Any, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The function on broadcast operands, which returns 0 where one of them is 0 (xlog1py, multiply_no_nan)."""
    a, b = torch.broadcast_tensors(*as_tensors(x, y))  # type: ignore[no-untyped-call]
    return function(a, b)


def _complex(real: Any, imag: Any) -> torch.Tensor:
    return torch.complex(*torch.broadcast_tensors(*as_tensors(real, imag)))  # type: ignore[no-untyped-call]


def _betainc(a: Any, b: Any, x: torch.Tensor) -> torch.Tensor:
    """The regularised incomplete beta function, by its continued fraction (Press et al., Numerical Recipes, 6.4)."""
    p, q, at = (torch.as_tensor(v, device=x.device).double() for v in (a, b, x))
    p, q, at = torch.broadcast_tensors(p, q, at)  # type: ignore[no-untyped-call]
    mirrored = at > (p + 1) / (p + q + 2)
    p, q, at = torch.where(mirrored, q, p), torch.where(mirrored, p, q), torch.where(mirrored, 1 - at, at)
    d = 1 / (1 - (p + q) * at / (p + 1))
    c, total = torch.ones_like(d), d
    for m in range(1, 100):
        for factor in (
            m * (q - m) * at / ((p + 2 * m - 1) * (p + 2 * m)),
            -(p + m) * (p + q + m) * at / ((p + 2 * m) * (p + 2 * m + 1)),
        ):
            d, c = 1 / (1 + factor * d), 1 + factor / c
            total = total * d * c
    scale = torch.lgamma(p + q) - torch.lgamma(p) - torch.lgamma(q) + torch.xlogy(p, at) + torch.xlogy(q, 1 - at)
    y = torch.exp(scale) * total / p
    return torch.where(mirrored, 1 - y, y).to(x.dtype)


def _polyval(coeffs: Any, x: Any) -> Any:
    total: Any = 0
    for coefficient in coeffs:
        total = total * x + coefficient
    return total


def _clip(t: torch.Tensor, clip_value_min: Any, clip_value_max: Any) -> torch.Tensor:
    low, high = (torch.as_tensor(v, device=t.device).to(t.dtype) for v in (clip_value_min, clip_value_max))
    return torch.maximum(torch.minimum(t, high), low)


def _clip_by_norm(t: torch.Tensor, clip_norm: float, axes: Any = None) -> torch.Tensor:
    norm = t.square().sum(axes_of(t, axes), keepdim=True).sqrt()
    return t * clip_norm / norm.clamp_min(clip_norm)


def _l2_normalized(x: torch.Tensor, axis: Any = None, epsilon: float = 1e-12, dim: Any = None) -> torch.Tensor:
    squares = x.square().sum(axes_of(x, dim if axis is None else axis), keepdim=True)
    return x * torch.rsqrt(squares.clamp_min(epsilon))


def _silu(features: torch.Tensor, beta: float = 1.0) -> torch.Tensor:
    return features * torch.sigmoid(beta * features)


def _crelu(features: torch.Tensor, axis: int = -1) -> torch.Tensor:
    return torch.relu(torch.cat([features, -features], axis))


# Along axes.


def _mean(x: torch.Tensor, axis: Any = None, keepdims: bool = False) -> torch.Tensor:
    axes = axes_of(x, axis)
    if not axes:
        return x
    if x.is_floating_point() or x.is_complex():
        return x.mean(axes, bool(keepdims))
    # The mean of integers is an integer, truncated.
    count = x.numel() // max(torch.sum(x, axes).numel(), 1)
    return torch.div(torch.sum(x, axes, bool(keepdims), dtype=x.dtype), count, rounding_mode="trunc")


def _euclidean(x: torch.Tensor, axis: Any = None, keepdims: bool = False) -> Any:
    wide = x if x.is_floating_point() else x.to(torch.float64)
    # The norm of integers is an integer, truncated.
    return torch.linalg.vector_norm(wide, 2, axes_of(x, axis), bool(keepdims)).to(x.dtype)


def _largest(x: torch.Tensor, k: Any = 1, sorted: bool = True) -> list[torch.Tensor]:
    """Equal elements keep their order."""
    values, places = torch.sort(x, dim=-1, descending=True, stable=True)
    return [values[..., : int(k)], places[..., : int(k)].to(torch.int32)]


def _argument(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def place(x: torch.Tensor, axis: Any = None, output_type: str = "int64", dimension: Any = None) -> torch.Tensor:
        along = axis if dimension is None else dimension
        x = x.to(torch.uint8) if x.dtype is torch.bool else x
        return function(x, 0 if along is None else int(along)).to(torch_dtype(output_type))

    return place


def _counted_nonzero(x: torch.Tensor, axis: Any = None, keepdims: bool = False, dtype: str = "int64") -> torch.Tensor:
    return (x != 0).sum(axes_of(x, axis), bool(keepdims)).to(torch_dtype(dtype))


def _zero_fraction(value: torch.Tensor) -> torch.Tensor:
    return (value == 0).to(torch.float32).mean()


def _cumulative(function: Callable[..., torch.Tensor], neutral: float) -> Callable[..., torch.Tensor]:
    def along(x: torch.Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> torch.Tensor:
        x = x.flip(axis) if reverse else x
        if exclusive:
            first = torch.full_like(x.narrow(axis, 0, min(1, x.shape[axis])), neutral)
            x = torch.cat([first, x.narrow(axis, 0, max(x.shape[axis] - 1, 0))], axis)
        y = function(x, axis).to(x.dtype)
        return y.flip(axis) if reverse else y

    return along


def _increasing(strictly: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    def increases(x: torch.Tensor) -> torch.Tensor:
        steps = x.reshape(-1).diff()
        return (steps > 0 if strictly else steps >= 0).all()

    return increases


def _sorted(values: torch.Tensor, axis: int = -1, direction: str = "ASCENDING") -> torch.Tensor:
    return torch.sort(values, dim=axis, descending=direction == "DESCENDING", stable=True).values


def _sorted_places(
    values: torch.Tensor, axis: int = -1, direction: str = "ASCENDING", stable: bool = False
) -> torch.Tensor:
    return torch.argsort(values, dim=axis, descending=direction == "DESCENDING", stable=True).to(torch.int32)


def _searched(
    sorted_sequence: Any, values: Any, side: str = "left", out_type: str = "int32", right: bool = False
) -> torch.Tensor:
    a, b = as_tensors(sorted_sequence, values)
    return torch.searchsorted(a.contiguous(), b.contiguous(), side=side).to(torch_dtype(out_type))


def _inverted(x: torch.Tensor) -> torch.Tensor:
    return torch.argsort(x, stable=True).to(x.dtype)


def _in_top_k(predictions: torch.Tensor, targets: Any, k: int) -> torch.Tensor:
    wanted = torch.as_tensor(targets, device=predictions.device).to(torch.int64)
    chosen = predictions.gather(-1, wanted[:, None])
    return (predictions > chosen).sum(-1) < k


# Counts.


def _segments(how: str) -> Callable[..., torch.Tensor]:
    neutral: Mapping[str, float] = {"amax": -torch.inf, "amin": torch.inf, "prod": 1.0}

    def reduced(data: torch.Tensor, segment_ids: Any, num_segments: int | None = None) -> torch.Tensor:
        ids = torch.as_tensor(segment_ids).to(torch.int64)
        # With num_segments, the maximum of an empty segment is the dtype's smallest number; without, it is 0.
        starts_from_first = how == "mean" or (num_segments is None and how in ("amax", "amin"))
        if num_segments is None:
            num_segments = data.shape[0] if ids.is_meta else int(ids.max()) + 1
        if not 0 <= int(num_segments) <= _MOST:
            raise DataError(f"got {num_segments} segments, expected from 0 to {_MOST}")
        if data.is_meta:
            return data.new_empty((int(num_segments), *data.shape[ids.ndim :]))
        flat = data.reshape(ids.numel(), *data.shape[ids.ndim :])
        places = torch.where((ids < 0) | (ids >= num_segments), num_segments, ids).reshape(-1)
        where = places.to(data.device).reshape(-1, *[1] * (flat.ndim - 1)).expand(flat.shape)
        made = flat.new_zeros((int(num_segments) + 1, *flat.shape[1:]))
        if how in neutral and not starts_from_first:
            limits = torch.finfo(data.dtype) if data.is_floating_point() else torch.iinfo(data.dtype)
            made = made + max(min(neutral[how], limits.max), limits.min)
        return made.scatter_reduce(0, where, flat, how, include_self=not starts_from_first)[:-1]

    return reduced


def _bincount(
    arr: torch.Tensor,
    weights: Any = None,
    minlength: int | None = None,
    maxlength: int | None = None,
    dtype: str = "int32",
) -> torch.Tensor:
    """Counts of all numbers below `maxlength`."""
    flat = arr.reshape(-1).to(torch.int64)
    length = maxlength if flat.is_meta else int(flat.max()) + 1
    if length is None or length > _MOST:
        raise DataError(f"got numbers up to {length}, expected less than {_MOST}")
    length = min(max(length, minlength or 0), maxlength if maxlength is not None else length + (minlength or 0))
    factors = torch.ones_like(flat) if weights is None else torch.as_tensor(weights, device=arr.device).reshape(-1)
    factors = factors.to(torch_dtype(dtype)) if weights is None else factors
    inside = torch.where(flat < length, flat, length)
    return factors.new_zeros(length + 1).scatter_add(0, inside, factors)[:-1]


def _histogram(values: torch.Tensor, value_range: Any, nbins: int = 100, dtype: str = "int32") -> torch.Tensor:
    """Number of values in each bin of equal width; values out of range count in the outermost bins."""
    low, high = (torch.as_tensor(v, device=values.device).to(values.dtype) for v in value_range)
    bins = (nbins * (values.reshape(-1) - low) / (high - low)).floor().clamp(0, nbins - 1).to(torch.int64)
    counts = torch.zeros(nbins, dtype=torch.int64, device=values.device)
    return counts.scatter_add(0, bins, torch.ones_like(bins)).to(torch_dtype(dtype))


def _confusion(
    labels: torch.Tensor, predictions: Any, num_classes: int | None = None, weights: Any = None, dtype: str = "int32"
) -> torch.Tensor:
    guesses = torch.as_tensor(predictions, device=labels.device).to(torch.int64)
    if num_classes is None:
        num_classes = int(max(labels.max(), guesses.max())) + 1
    if num_classes**2 > _MOST:
        raise DataError(f"got {num_classes} classes, expected fewer")
    flat = labels.to(torch.int64) * num_classes + guesses
    factors = torch.ones_like(flat) if weights is None else torch.as_tensor(weights, device=labels.device)
    made = factors.new_zeros(num_classes**2).scatter_add(0, flat, factors)
    return made.reshape(num_classes, num_classes).to(torch_dtype(dtype))


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "ArgMax": _argument(torch.argmax),
    "ArgMin": _argument(torch.argmin),
    "Argsort": _sorted_places,
    "BesselI0e": torch.special.i0e,
    "BesselI1": torch.special.i1,
    "BesselI1e": torch.special.i1e,
    "Betainc": _betainc,
    "Bincount": _bincount,
    "Clip": _clip,
    "ClipByNorm": _clip_by_norm,
    "Complex": _complex,
    "Conj": torch.conj_physical,
    "ConfusionMatrix": _confusion,
    "CountNonzero": _counted_nonzero,
    "Crelu": _crelu,
    "Cumprod": _cumulative(torch.cumprod, 1),
    "Cumsum": _cumulative(torch.cumsum, 0),
    "CumulativeLogsumexp": _cumulative(torch.logcumsumexp, -torch.inf),
    "Digamma": torch.digamma,
    "DivideNoNan": _divided_no_nan,
    "EuclideanNorm": _euclidean,
    "Erfcinv": lambda x: -torch.special.ndtri(x / 2) * 0.5**0.5,
    "FloorDivide": _floor_divided,
    "Histogram": _histogram,
    "Igamma": _two(torch.special.gammainc),
    "Igammac": _two(torch.special.gammaincc),
    "InTopK": _in_top_k,
    "InvertPermutation": _inverted,
    "IsNonDecreasing": _increasing(strictly=False),
    "IsStrictlyIncreasing": _increasing(strictly=True),
    "L2Loss": lambda t: t.square().sum() / 2,
    "L2Normalize": _l2_normalized,
    "Lbeta": lambda x: torch.lgamma(x).sum(-1) - torch.lgamma(x.sum(-1)),
    "Lgamma": torch.lgamma,
    "Mean": _mean,
    "MultiplyNoNan": lambda x, y: _without_nan(x, y, lambda a, b: torch.where(b == 0, 0, a * b)),
    "Ndtri": torch.special.ndtri,
    "Polygamma": lambda a, x: torch.where(
        a == 0,
        torch.digamma(x),
        torch.where(a % 2 == 1, 1.0, -1.0) * torch.exp(torch.lgamma(a + 1)) * torch.special.zeta(a + 1, x),
    ),
    "Polyval": _polyval,
    "ReciprocalNoNan": lambda x: torch.where(x == 0, 0, 1 / x),
    "SearchSorted": _searched,
    "SegmentMax": _segments("amax"),
    "SegmentMean": _segments("mean"),
    "SegmentMin": _segments("amin"),
    "SegmentProd": _segments("prod"),
    "SegmentSum": _segments("sum"),
    "Silu": _silu,
    "Sort": _sorted,
    "TopK": _largest,
    "TrueDivide": _divided,
    "Xlog1py": lambda x, y: _without_nan(x, y, lambda a, b: torch.where(a == 0, 0, a * torch.log1p(b))),
    "ZeroFraction": _zero_fraction,
    "Zeta": _two(torch.special.zeta),
}

OPERATIONS: dict[str, type[Operation]] = {
    f"tf>{name}": function_node(
        name,
        function,
        reads_values=name == "TopK",
        computes_values=name in ("TrueDivide", "FloorDivide", "Clip", "Cumsum", "Cumprod"),
    )
    for name, function in _FUNCTIONS.items()
}
