"""Products, norms and correlations (keras.ops.numpy and keras.ops.linalg)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import anything, boolean, integer, one_of, one_or_list_of, option, optional
from layergraph.functional.call_context import CallContext
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation, as_tensors

_LINALG = "keras.src.ops.linalg"


def _promoted(x1: Any, x2: Any) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = as_tensors(x1, x2)
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)


class Dot(Operation):
    """Sums over the last axis of the first and the second-last axis of the second tensor (keras.ops.dot)."""

    def forward(self, context: CallContext, w: Weights, x1: Any, x2: Any) -> Any:  # type: ignore[override]
        a, b = _promoted(x1, x2)
        if a.ndim == 0 or b.ndim == 0:
            return a * b
        return torch.tensordot(a, b, dims=([a.ndim - 1], [max(b.ndim - 2, 0)]))


class Vdot(Operation):
    """The dot product of the flattened tensors (keras.ops.vdot)."""

    def forward(self, context: CallContext, w: Weights, x1: Any, x2: Any) -> Any:  # type: ignore[override]
        a, b = _promoted(x1, x2)
        return torch.dot(a.reshape(-1), b.reshape(-1))


class Inner(Operation):
    """Sums of products over the last axes (keras.ops.inner)."""

    def forward(self, context: CallContext, w: Weights, x1: Any, x2: Any) -> Any:  # type: ignore[override]
        return torch.inner(*_promoted(x1, x2))


class Outer(Operation):
    """Products of all pairs of elements (keras.ops.outer)."""

    def forward(self, context: CallContext, w: Weights, x1: Any, x2: Any) -> Any:  # type: ignore[override]
        a, b = _promoted(x1, x2)
        return torch.outer(a.reshape(-1), b.reshape(-1))


def _axes(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(one_or_list_of(integer)(item) for item in value)
    return integer(value)


class Tensordot(Operation):
    """Sums of products over the axes (keras.ops.tensordot)."""

    axes: Any = option(_axes, default=2)

    def forward(self, context: CallContext, w: Weights, x1: Any, x2: Any) -> Any:  # type: ignore[override]
        a, b = _promoted(x1, x2)
        if isinstance(self.axes, int):
            return torch.tensordot(a, b, dims=self.axes)
        left, right = ([axis] if isinstance(axis, int) else list(axis) for axis in self.axes)
        return torch.tensordot(a, b, dims=(left, right))


class Cross(Operation):
    """The cross product of vectors of length 3, or 2 with an implicit third element of 0 (keras.ops.cross)."""

    axisa: int = option(integer, default=-1)
    axisb: int = option(integer, default=-1)
    axisc: int = option(integer, default=-1)
    axis: int | None = option(optional(integer), default=None)

    def forward(self, context: CallContext, w: Weights, x1: Any, x2: Any) -> Any:  # type: ignore[override]
        a, b = _promoted(x1, x2)
        first, second, result = (self.axisa, self.axisb, self.axisc) if self.axis is None else (self.axis,) * 3
        a, b = a.movedim(first, -1), b.movedim(second, -1)
        flat = a.shape[-1] == b.shape[-1] == 2
        a, b = (torch.nn.functional.pad(x, (0, 3 - x.shape[-1])) for x in (a, b))
        y = torch.linalg.cross(*torch.broadcast_tensors(a, b))  # type: ignore[no-untyped-call]
        return y[..., 2] if flat else y.movedim(-1, result)


class Kron(Operation):
    """The Kronecker product (keras.ops.kron)."""

    def forward(self, context: CallContext, w: Weights, x1: Any, x2: Any) -> Any:  # type: ignore[override]
        return torch.kron(*_promoted(x1, x2))


class CDist(Operation):
    """Distances of all pairs of rows (keras.ops.cdist)."""

    keras_module = "keras.src.ops.math"

    def forward(self, context: CallContext, w: Weights, x: Any, y: Any) -> Any:  # type: ignore[override]
        a, b = _promoted(x, y)
        return (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1).sqrt()


class Corrcoef(Operation):
    """Correlation coefficients of all pairs of rows (keras.ops.corrcoef)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> Any:
        x = x if x.is_floating_point() else x.to(torch.float64 if x.dtype is torch.int64 else torch.float32)
        return x.new_empty((x.shape[0],) * 2) if x.is_meta else torch.corrcoef(x)


class Correlate(Operation):
    """Sums of products at each shift of two vectors (keras.ops.correlate)."""

    mode: str = option(one_of("valid", "same", "full"), default="valid")

    def forward(self, context: CallContext, w: Weights, x1: Any, x2: Any) -> Any:  # type: ignore[override]
        a, b = (x if x.is_floating_point() else x.to(torch.float32) for x in _promoted(x1, x2))
        y = torch.nn.functional.conv1d(a[None, None], b[None, None], padding=b.shape[0] - 1)[0, 0]
        length = {
            "valid": max(a.shape[0], b.shape[0]) - min(a.shape[0], b.shape[0]) + 1,
            "same": a.shape[0],
            "full": y.shape[0],
        }[self.mode]
        return y.narrow(0, (y.shape[0] - length) // 2, length)


class Norm(Operation):
    """The norm of vectors, or of matrices for two axes (keras.ops.norm)."""

    keras_module = _LINALG

    ord: Any = option(anything, default=None)
    axis: Any = option(optional(one_or_list_of(integer)), default=None)
    keepdims: bool = option(boolean, default=False)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> Any:
        x = x if x.is_floating_point() else x.to(torch.float32)
        axes = self.axis if self.axis is None or isinstance(self.axis, int) else list(self.axis)
        if self.ord is None or self.ord == "euclidean":
            y = torch.linalg.vector_norm(x, 2, axes, self.keepdims)
        else:
            y = torch.linalg.norm(x, self.ord, axes, self.keepdims)
        return y


OPERATIONS: dict[str, type[Operation]] = {
    "Correlate": Correlate,
    "Corrcoef": Corrcoef,
    "CDist": CDist,
    "Kron": Kron,
    "Cross": Cross,
    "Dot": Dot,
    "Inner": Inner,
    "Norm": Norm,
    "Outer": Outer,
    "Tensordot": Tensordot,
    "Vdot": Vdot,
}
