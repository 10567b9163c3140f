"""Cumulative sums, order statistics, and reductions that ignore NaN (keras.ops.numpy)."""

from __future__ import annotations

import typing as t
from collections.abc import Callable

import torch

from layergraph.config.options import anything, boolean, integer, one_of, one_or_list_of, option, optional, positive_int
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import at_least_float32
from layergraph.ops.operation import Operation, Typed
from layergraph.ops.reductions import SUMMED_IN_INT32, Reduction


def _floating(x: torch.Tensor) -> torch.Tensor:
    return x if x.is_floating_point() else x.to(torch.float32)


class _ByFunction(Reduction):
    """A reduction by `function`, applied to the last axis after flattening the reduced axes into it."""

    function: t.ClassVar[Callable[[torch.Tensor], torch.Tensor]]

    def flattened(self, x: torch.Tensor) -> torch.Tensor:
        """x with the reduced axes flattened into the last one."""
        axes = sorted(axis % x.ndim for axis in self.axes(x))
        kept = [axis for axis in range(x.ndim) if axis not in axes]
        return x.permute(*kept, *axes).flatten(len(kept)) if axes else x.unsqueeze(-1)

    def kept(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The result, with the reduced axes of length 1 if `keepdims`."""
        if not self.keepdims:
            return y
        for axis in sorted(axis % x.ndim for axis in self.axes(x)):
            y = y.unsqueeze(axis)
        return y

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor) -> torch.Tensor:
        return self.kept(x, type(self).function(self.flattened(x)))


def _reduction(name: str, function: Callable[[torch.Tensor], torch.Tensor]) -> type[Operation]:
    return type(name, (_ByFunction,), {"function": staticmethod(function), "__doc__": f"keras.ops.numpy.{name}."})


def _prod(x: torch.Tensor) -> torch.Tensor:
    return torch.prod(x, -1, dtype=torch.int32 if x.dtype in SUMMED_IN_INT32 else x.dtype)


def _median(x: torch.Tensor) -> torch.Tensor:
    y = torch.quantile(at_least_float32(x), 0.5, -1)
    return y.to(x.dtype) if x.is_floating_point() else y


def _sum(x: torch.Tensor) -> torch.Tensor:
    return torch.sum(x, -1, dtype=torch.int32 if x.dtype in SUMMED_IN_INT32 else x.dtype)


def _zeroed(x: torch.Tensor, value: float) -> torch.Tensor:
    return torch.nan_to_num(x, value, torch.inf, -torch.inf) if x.is_floating_point() else x


def _or_nan(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """y, with NaN where all elements of x are NaN."""
    return torch.where(torch.isnan(x).all(-1), torch.full_like(y, torch.nan), y) if x.is_floating_point() else y


def _nan_var(x: torch.Tensor) -> torch.Tensor:
    x = _floating(x)
    mean = torch.nanmean(x, -1, keepdim=True)
    return torch.nanmean((x - mean).square(), -1)


class Prod(Typed, _ByFunction):
    """The product (keras.ops.prod)."""

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor) -> torch.Tensor:
        return self.converted(self.kept(x, _prod(self.flattened(x))))


class _Quantile(_ByFunction):
    method: str = option(one_of("linear", "lower", "higher", "midpoint", "nearest"), default="linear")

    scale: t.ClassVar[float] = 1.0
    ignores_nan: t.ClassVar[bool] = False

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor, q: t.Any) -> torch.Tensor:  # type: ignore[override]
        """The quantiles; for several q, along a new first axis."""
        values = at_least_float32(x)
        level = torch.as_tensor(q, dtype=values.dtype, device=values.device) / self.scale
        function = torch.nanquantile if self.ignores_nan else torch.quantile
        y = function(self.flattened(values), level, -1, interpolation=self.method)
        y = y.to(x.dtype if x.is_floating_point() else y.dtype)
        if not self.keepdims:
            return y
        for axis in sorted(axis % x.ndim for axis in self.axes(x)):
            y = y.unsqueeze(axis + level.ndim)
        return y


class Quantile(_Quantile):
    """keras.ops.quantile."""


class Percentile(_Quantile):
    """keras.ops.percentile."""

    scale = 100.0


class Nanquantile(_Quantile):
    """keras.ops.nanquantile."""

    ignores_nan = True


class Nanpercentile(_Quantile):
    """keras.ops.nanpercentile."""

    scale = 100.0
    ignores_nan = True


class Average(Operation):
    """The mean, weighted if weights are given (keras.ops.average)."""

    axis: t.Any = option(optional(one_or_list_of(integer)), default=None)

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor, weights: t.Any = None) -> t.Any:
        x = _floating(x)
        axes = list(range(x.ndim)) if self.axis is None else [self.axis] if isinstance(self.axis, int) else self.axis
        if weights is None:
            return x.mean(list(axes))
        weights = torch.as_tensor(weights, device=x.device).to(x.dtype)
        if weights.ndim == 1 and x.ndim > 1:
            shape = [1] * x.ndim
            shape[axes[0]] = -1
            weights = weights.reshape(shape)
        total = weights.expand(x.shape).sum(list(axes))
        return (x * weights).sum(list(axes)) / total


class _Cumulative(Typed):
    axis: t.Any = option(optional(integer), default=None)

    function: t.ClassVar[Callable[..., torch.Tensor]]
    neutral: t.ClassVar[float | None] = None

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor) -> torch.Tensor:
        if self.neutral is not None:
            x = _zeroed(x, self.neutral)
        x, axis = (x.reshape(-1), 0) if self.axis is None else (x, self.axis)
        x = x.to(torch.int32) if x.dtype is torch.bool else x
        return self.converted(type(self).function(self.converted(x), axis))


def _cumulative(name: str, function: Callable[..., torch.Tensor], neutral: float | None = None) -> type[Operation]:
    members = {"function": staticmethod(lambda x, axis: function(x, axis, dtype=x.dtype)), "neutral": neutral}
    return type(name, (_Cumulative,), {**members, "__doc__": f"keras.ops.numpy.{name}."})


class _NanArg(Operation):
    axis: int | None = option(optional(integer), default=None)
    keepdims: bool = option(boolean, default=False)


class Nanargmax(_NanArg):
    """Index of the largest number (keras.ops.nanargmax)."""

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor) -> torch.Tensor:
        filled = torch.nan_to_num(x, -torch.inf, torch.inf, -torch.inf) if x.is_floating_point() else x
        return torch.argmax(filled, self.axis, self.keepdims).to(torch.int32)


class Nanargmin(_NanArg):
    """Index of the smallest number (keras.ops.nanargmin)."""

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor) -> torch.Tensor:
        filled = torch.nan_to_num(x, torch.inf, torch.inf, -torch.inf) if x.is_floating_point() else x
        return torch.argmin(filled, self.axis, self.keepdims).to(torch.int32)


class Diff(Operation):
    """Differences between neighbouring elements (keras.ops.diff)."""

    n: int = option(positive_int, default=1)
    axis: int = option(integer, default=-1)

    def forward(self, context: CallContext, w: t.Any, a: torch.Tensor) -> torch.Tensor:
        return torch.diff(a, self.n, self.axis)


class Trapezoid(Operation):
    """The integral by the trapezoidal rule (keras.ops.trapezoid)."""

    x: t.Any = option(anything, default=None)
    dx: float = option(anything, default=1.0)
    axis: int = option(integer, default=-1)

    def forward(self, context: CallContext, w: t.Any, y: torch.Tensor) -> torch.Tensor:
        if self.x is not None:
            return torch.trapezoid(_floating(y), torch.as_tensor(self.x, device=y.device), dim=self.axis)
        return torch.trapezoid(_floating(y), dx=self.dx, dim=self.axis)


OPERATIONS: dict[str, type[Operation]] = {
    "Average": Average,
    "Cumprod": _cumulative("Cumprod", torch.cumprod),
    "Cumsum": _cumulative("Cumsum", torch.cumsum),
    "Diff": Diff,
    "Median": _reduction("Median", _median),
    "Nanargmax": Nanargmax,
    "Nanargmin": Nanargmin,
    "Nancumprod": _cumulative("Nancumprod", torch.cumprod, 1.0),
    "Nancumsum": _cumulative("Nancumsum", torch.cumsum, 0.0),
    "Nanmax": _reduction("Nanmax", lambda x: _or_nan(x, torch.amax(_zeroed(x, -torch.inf), -1))),
    "Nanmean": _reduction("Nanmean", lambda x: torch.nanmean(_floating(x), -1)),
    "Nanmedian": _reduction("Nanmedian", lambda x: torch.nanquantile(_floating(x), 0.5, -1)),
    "Nanmin": _reduction("Nanmin", lambda x: _or_nan(x, torch.amin(_zeroed(x, torch.inf), -1))),
    "Nanpercentile": Nanpercentile,
    "Nanprod": _reduction("Nanprod", lambda x: _prod(_zeroed(x, 1.0))),
    "Nanquantile": Nanquantile,
    "Nanstd": _reduction("Nanstd", lambda x: _nan_var(x).sqrt()),
    "Nansum": _reduction("Nansum", lambda x: _sum(_zeroed(x, 0.0))),
    "Nanvar": _reduction("Nanvar", _nan_var),
    "Percentile": Percentile,
    "Prod": Prod,
    "Ptp": _reduction("Ptp", lambda x: torch.amax(x, -1) - torch.amin(x, -1)),
    "Quantile": Quantile,
    "Trapezoid": Trapezoid,
}
