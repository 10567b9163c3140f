"""Decompositions of matrices, and functions based on them (keras.ops.linalg)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import boolean, number, one_of, option, optional
from layergraph.errors import DataError
from layergraph.functional.call_context import CallContext
from layergraph.functional.torch_errors import meaning
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation, as_tensors

_NoDecomposition = torch.linalg.LinAlgError  # type: ignore[attr-defined]


class _Matrix(Operation):
    keras_module = "keras.src.ops.linalg"

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Executes the operation. Raises DataError if a matrix has no such decomposition."""
        try:
            return super().execute(*args, **kwargs)
        except _NoDecomposition as wrong:
            raise DataError(f"{type(self).__name__}: {meaning(wrong)}") from wrong


class Cholesky(_Matrix):
    """The triangular factor (keras.ops.cholesky)."""

    upper: bool = option(boolean, default=False)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> Any:
        return torch.linalg.cholesky(x, upper=self.upper)


class CholeskyInverse(_Matrix):
    """The inverse of the matrix with the Cholesky factor x (keras.ops.cholesky_inverse)."""

    upper: bool = option(boolean, default=False)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> Any:
        return torch.cholesky_inverse(x, upper=self.upper)


class Det(_Matrix):
    """The determinant (keras.ops.det)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> Any:
        return torch.linalg.det(x)


class Eig(_Matrix):
    """Complex eigenvalues and eigenvectors (keras.ops.eig)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> Any:
        return list(torch.linalg.eig(x))


class Eigh(_Matrix):
    """Eigenvalues and eigenvectors of a symmetric matrix (keras.ops.eigh)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> Any:
        return list(torch.linalg.eigh(x))


class Inv(_Matrix):
    """The inverse (keras.ops.inv)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> Any:
        return torch.linalg.inv(x)


class Lstsq(_Matrix):
    """The least-squares solution of a @ x = b (keras.ops.lstsq).

    Singular values below `rcond` x the largest are treated as 0.
    """

    rcond: float | None = option(optional(number), default=None)

    def forward(self, context: CallContext, w: Weights, a: Any, b: Any) -> Any:  # type: ignore[override]
        a, b = as_tensors(a, b)
        vector = b.ndim == a.ndim - 1
        b = b.unsqueeze(-1) if vector else b
        if a.is_meta:
            x = a.mT @ b
        elif self.rcond is None and a.device.type == "cpu":
            x = torch.linalg.lstsq(a, b).solution
        else:
            x = torch.linalg.pinv(a, rtol=self.rcond) @ b
        return x.squeeze(-1) if vector else x


class LuFactor(_Matrix):
    """Both triangles in one matrix, and the pivots, counted from 0 (torch counts from 1) (keras.ops.lu_factor)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> Any:
        factors, pivots = torch.linalg.lu_factor(x)
        return [factors, pivots - 1]


class MatrixRank(_Matrix):
    """The rank: the number of singular values above `tol` (keras.ops.matrix_rank)."""

    tol: float | None = option(optional(number), default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> Any:
        return torch.linalg.matrix_rank(x, atol=self.tol).to(torch.int32)


class Pinv(_Matrix):
    """The pseudo-inverse (keras.ops.pinv)."""

    rcond: float | None = option(optional(number), default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> Any:
        return torch.linalg.pinv(x, rtol=self.rcond)


class Qr(_Matrix):
    """An orthogonal and a triangular matrix (keras.ops.qr)."""

    mode: str = option(one_of("reduced", "complete"), default="reduced")

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> Any:
        return list(torch.linalg.qr(x, mode=self.mode))


class Solve(_Matrix):
    """The solution of a @ x = b (keras.ops.solve)."""

    def forward(self, context: CallContext, w: Weights, a: Any, b: Any) -> Any:  # type: ignore[override]
        return torch.linalg.solve(*as_tensors(a, b))


class SolveTriangular(_Matrix):
    """The solution of a @ x = b (keras.ops.solve_triangular)."""

    lower: bool = option(boolean, default=False)

    def forward(self, context: CallContext, w: Weights, a: Any, b: Any) -> Any:  # type: ignore[override]
        a, b = as_tensors(a, b)
        vector = b.ndim == a.ndim - 1
        x = torch.linalg.solve_triangular(a, b.unsqueeze(-1) if vector else b, upper=not self.lower)
        return x.squeeze(-1) if vector else x


class SVD(_Matrix):
    """Left vectors, singular values and right vectors, or the singular values alone (keras.ops.svd)."""

    full_matrices: bool = option(boolean, default=True)
    compute_uv: bool = option(boolean, default=True)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> Any:
        if not self.compute_uv:
            return torch.linalg.svdvals(x)
        return list(torch.linalg.svd(x, self.full_matrices))


class Logdet(_Matrix):
    """The logarithm of the determinant (keras.ops.logdet)."""

    keras_module = "keras.src.ops.math"

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> Any:
        return torch.logdet(x)


class Slogdet(_Matrix):
    """Sign and logarithm of the determinant (keras.ops.slogdet)."""

    keras_module = Operation.keras_module

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> Any:
        return list(torch.linalg.slogdet(x))


OPERATIONS: dict[str, type[Operation]] = {
    known.__name__: known
    for known in (
        Cholesky,
        CholeskyInverse,
        Det,
        Eig,
        Eigh,
        Inv,
        Logdet,
        Lstsq,
        LuFactor,
        MatrixRank,
        Pinv,
        Qr,
        SVD,
        Slogdet,
        Solve,
        SolveTriangular,
    )
}
