"""Products and decompositions (keras.ops.numpy and keras.ops.linalg)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import anything, boolean, integer, one_or_list_of, option, optional
from layergraph.functional.run import Run
from layergraph.ops.operation import Operation, as_tensors

_LINALG = "keras.src.ops.linalg"


def _alike(x1: Any, x2: Any) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = as_tensors(x1, x2)
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)


class Dot(Operation):
    """keras.ops.dot."""

    def forward(self, run: Run, w: Any, x1: Any, x2: Any) -> Any:  # type: ignore[override]
        """NumPy's dot: over the last axis of the first and the second last of the other."""
        a, b = _alike(x1, x2)
        if a.ndim == 0 or b.ndim == 0:
            return a * b
        return torch.tensordot(a, b, dims=([a.ndim - 1], [max(b.ndim - 2, 0)]))


class Vdot(Operation):
    """keras.ops.vdot."""

    def forward(self, run: Run, w: Any, x1: Any, x2: Any) -> Any:  # type: ignore[override]
        """The product of all elements."""
        a, b = _alike(x1, x2)
        return torch.dot(a.reshape(-1), b.reshape(-1))


class Inner(Operation):
    """keras.ops.inner."""

    def forward(self, run: Run, w: Any, x1: Any, x2: Any) -> Any:  # type: ignore[override]
        """Over the last axes."""
        return torch.inner(*_alike(x1, x2))


class Outer(Operation):
    """keras.ops.outer."""

    def forward(self, run: Run, w: Any, x1: Any, x2: Any) -> Any:  # type: ignore[override]
        """Each with each."""
        a, b = _alike(x1, x2)
        return torch.outer(a.reshape(-1), b.reshape(-1))


def _axes(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(one_or_list_of(integer)(item) for item in value)
    return integer(value)


class Tensordot(Operation):
    """keras.ops.tensordot."""

    axes: Any = option(_axes, default=2)

    def forward(self, run: Run, w: Any, x1: Any, x2: Any) -> Any:  # type: ignore[override]
        """Over the axes."""
        a, b = _alike(x1, x2)
        if isinstance(self.axes, int):
            return torch.tensordot(a, b, dims=self.axes)
        left, right = ([axis] if isinstance(axis, int) else list(axis) for axis in self.axes)
        return torch.tensordot(a, b, dims=(left, right))


class Norm(Operation):
    """keras.ops.norm."""

    keras_module = _LINALG

    ord: Any = option(anything, default=None)
    axis: Any = option(optional(one_or_list_of(integer)), default=None)
    keepdims: bool = option(boolean, default=False)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> Any:
        """The norm of vectors, or of matrices with two axes."""
        x = x if x.is_floating_point() else x.to(torch.float32)
        axes = self.axis if self.axis is None or isinstance(self.axis, int) else list(self.axis)
        if self.ord is None or self.ord == "euclidean":
            y = torch.linalg.vector_norm(x, 2, axes, self.keepdims)
        else:
            y = torch.linalg.norm(x, self.ord, axes, self.keepdims)
        return y


class _Matrix(Operation):
    keras_module = _LINALG


class Cholesky(_Matrix):
    """keras.ops.cholesky."""

    upper: bool = option(boolean, default=False)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> Any:
        """The root."""
        return torch.linalg.cholesky(x, upper=self.upper)


class Det(_Matrix):
    """keras.ops.det."""

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> Any:
        """The determinant."""
        return torch.linalg.det(x)


class Inv(_Matrix):
    """keras.ops.inv."""

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> Any:
        """The inverse."""
        return torch.linalg.inv(x)


class Solve(_Matrix):
    """keras.ops.solve."""

    def forward(self, run: Run, w: Any, a: torch.Tensor, b: torch.Tensor) -> Any:  # type: ignore[override]
        """The x for which a @ x = b."""
        return torch.linalg.solve(a, b)


class SolveTriangular(_Matrix):
    """keras.ops.solve_triangular."""

    lower: bool = option(boolean, default=False)

    def forward(self, run: Run, w: Any, a: torch.Tensor, b: torch.Tensor) -> Any:  # type: ignore[override]
        """The x for which a @ x = b."""
        vector = b.ndim == a.ndim - 1
        x = torch.linalg.solve_triangular(a, b.unsqueeze(-1) if vector else b, upper=not self.lower)
        return x.squeeze(-1) if vector else x


class Logdet(Operation):
    """keras.ops.logdet."""

    keras_module = "keras.src.ops.math"

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> Any:
        """The logarithm of the determinant."""
        return torch.logdet(x)


class MatmulTransposed(Operation):
    """tf.matmul with its arguments."""

    keras_module = "layergraph.ops"
    transpose_a: bool = option(boolean, default=False)
    transpose_b: bool = option(boolean, default=False)

    def forward(self, run: Run, w: Any, x1: Any, x2: Any) -> Any:  # type: ignore[override]
        """x1 @ x2, either transposed first."""
        a, b = _alike(x1, x2)
        return torch.matmul(a.mT if self.transpose_a else a, b.mT if self.transpose_b else b)


OPERATIONS: dict[str, type[Operation]] = {
    "Cholesky": Cholesky,
    "Det": Det,
    "Dot": Dot,
    "Inner": Inner,
    "Inv": Inv,
    "Logdet": Logdet,
    "Norm": Norm,
    "Outer": Outer,
    "Solve": Solve,
    "SolveTriangular": SolveTriangular,
    "Tensordot": Tensordot,
    "Vdot": Vdot,
    "tf>Matmul": MatmulTransposed,
}
