"""Reductions along axes (keras.ops.numpy), and matrix products."""

from __future__ import annotations

import typing as t

import torch

from layergraph.config.options import boolean, integer, number, one_or_list_of, option, optional, text
from layergraph.functional.call_context import CallContext
from layergraph.ops.operation import Operation, as_floats, as_tensors

#: Dtypes that are summed in int32, as in Keras.
SUMMED_IN_INT32 = (torch.bool, torch.uint8, torch.int8, torch.int16)


class Reduction(Operation):
    """Base of reductions over one axis, several, or all."""

    computes_values = True

    axis: t.Any = option(optional(one_or_list_of(integer)), default=None)
    keepdims: bool = option(boolean, default=False)

    def axes(self, x: torch.Tensor) -> list[int]:
        """The reduced axes; all of them by default."""
        if self.axis is None:
            return list(range(x.ndim))
        return [self.axis] if isinstance(self.axis, int) else list(self.axis)

    def along(self, x: torch.Tensor) -> tuple[torch.Tensor, list[int], bool]:
        """x, its reduced axes, and whether they stay. torch takes no axes for all, so an axis of length 1 is added."""
        axes = self.axes(x)
        return (x, axes, self.keepdims) if axes or self.axis is None else (x.unsqueeze(0), [0], False)


class Any(Reduction):
    """Whether any element is true (keras.ops.any)."""

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor) -> torch.Tensor:
        return torch.any(x.to(torch.bool), self.axes(x), self.keepdims)


class All(Reduction):
    """Whether all elements are true (keras.ops.all)."""

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor) -> torch.Tensor:
        return torch.all(x.to(torch.bool), self.axes(x), self.keepdims)


class Sum(Reduction):
    """The sum (keras.ops.sum)."""

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor) -> torch.Tensor:
        dtype = torch.int32 if x.dtype in SUMMED_IN_INT32 else x.dtype
        return torch.sum(*self.along(x), dtype=dtype)


class Mean(Reduction):
    """The mean (keras.ops.mean)."""

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor) -> torch.Tensor:
        return torch.mean(*self.along(x if x.is_floating_point() else x.float()))


class Max(Reduction):
    """keras.ops.max. `initial` is treated as one more element."""

    initial: float | None = option(optional(number), default=None)

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.amax(*self.along(x))
        return y if self.initial is None else y.clamp_min(self.initial)


class Min(Reduction):
    """keras.ops.min. `initial` is treated as one more element."""

    initial: float | None = option(optional(number), default=None)

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.amin(*self.along(x))
        return y if self.initial is None else y.clamp_max(self.initial)


class Var(Reduction):
    """The variance, without Bessel's correction (keras.ops.var)."""

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor) -> torch.Tensor:
        x, axes, keepdims = self.along(x if x.is_floating_point() else x.float())
        return torch.var(x, axes, correction=0, keepdim=keepdims)


class Std(Reduction):
    """The standard deviation, without Bessel's correction (keras.ops.std)."""

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor) -> torch.Tensor:
        x = x if x.is_floating_point() else x.float()
        return torch.std(x, self.axes(x), correction=0, keepdim=self.keepdims)


class Logsumexp(Reduction):
    """log sum exp(x) (keras.ops.logsumexp)."""

    keras_module = "keras.src.ops.math"

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor) -> torch.Tensor:
        return torch.logsumexp(x, self.axes(x), self.keepdims)


def _numbers(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.uint8) if x.dtype is torch.bool else x


class _Arg(Operation):
    axis: int | None = option(optional(integer), default=None)
    keepdims: bool = option(boolean, default=False)


class Argmax(_Arg):
    """Index of the largest element (keras.ops.argmax)."""

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor) -> torch.Tensor:
        return torch.argmax(_numbers(x), self.axis, self.keepdims).to(torch.int32)


class Argmin(_Arg):
    """Index of the smallest element (keras.ops.argmin)."""

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor) -> torch.Tensor:
        return torch.argmin(_numbers(x), self.axis, self.keepdims).to(torch.int32)


class Matmul(Operation):
    """x1 @ x2 (keras.ops.matmul)."""

    def forward(self, context: CallContext, w: t.Any, x1: t.Any, x2: t.Any) -> torch.Tensor:  # type: ignore[override]
        a, b = as_tensors(x1, x2)
        dtype = torch.promote_types(a.dtype, b.dtype)
        return torch.matmul(a.to(dtype), b.to(dtype))


class Einsum(Operation):
    """Sums of products by the subscripts (keras.ops.einsum)."""

    variadic = True

    subscripts: str = option(text)

    def forward(self, context: CallContext, w: t.Any, *operands: t.Any) -> torch.Tensor:
        like = next(x for x in operands if isinstance(x, torch.Tensor))
        tensors = [torch.as_tensor(x, device=like.device) for x in operands]
        dtype = tensors[0].dtype
        for x in tensors[1:]:
            dtype = torch.promote_types(dtype, x.dtype)
        # Sums of int8 would overflow.
        dtype = torch.int32 if dtype is torch.int8 else dtype
        return torch.einsum(self.subscripts, *(x.to(dtype) for x in tensors))


class Normalize(Operation):
    """keras.ops.normalize: x divided by its norm, which is clipped to at least `epsilon`."""

    keras_module = "keras.src.ops.nn"

    axis: t.Any = option(one_or_list_of(integer), default=-1)
    order: int = option(integer, default=2)
    epsilon: t.Any = option(lambda value: 1e-7 if value is None else number(value), default=None)

    def forward(self, context: CallContext, w: t.Any, x: torch.Tensor) -> torch.Tensor:
        axes = [self.axis] if isinstance(self.axis, int) else list(self.axis)
        if self.order == 2:
            x = as_floats(x)
            # In half precision 1 / epsilon isn't finite.
            largest = min(1 / self.epsilon, torch.finfo(x.dtype).max)
            # torch takes no axes for all.
            squares = x.square().sum(axes, keepdim=True) if axes else x.square()
            return x * torch.rsqrt(squares).clamp_max(largest)
        norm: torch.Tensor = torch.linalg.vector_norm(as_floats(x), self.order, axes, keepdim=True)
        return x / norm.clamp_min(self.epsilon)


OPERATIONS: dict[str, type[Operation]] = {
    "All": All,
    "Amax": Max,
    "Amin": Min,
    "Any": Any,
    "Argmax": Argmax,
    "Argmin": Argmin,
    "Einsum": Einsum,
    "Logsumexp": Logsumexp,
    "Matmul": Matmul,
    "Max": Max,
    "Mean": Mean,
    "Min": Min,
    "Normalize": Normalize,
    "Std": Std,
    "Sum": Sum,
    "Var": Var,
}
