"""TensorFlow functions on matrices that Keras 3 lacks or defines differently (tf.linalg)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from layergraph.ops.operation import Operation, as_tensors, function_node


def _flipped(x: torch.Tensor, transposed: bool, adjoint: bool) -> torch.Tensor:
    return x.mH if adjoint else x.mT if transposed else x


def _product(
    a: Any,
    b: Any,
    transpose_a: bool = False,
    transpose_b: bool = False,
    adjoint_a: bool = False,
    adjoint_b: bool = False,
    output_type: Any = None,
) -> torch.Tensor:
    """tf.matmul."""
    x, y = as_tensors(a, b)
    return torch.matmul(_flipped(x, transpose_a, adjoint_a), _flipped(y.to(x.dtype), transpose_b, adjoint_b))


def _vector_product(a: Any, b: Any, transpose_a: bool = False, adjoint_a: bool = False) -> torch.Tensor:
    """tf.linalg.matvec."""
    x, y = as_tensors(a, b)
    return torch.matmul(_flipped(x, transpose_a, adjoint_a), y.to(x.dtype).unsqueeze(-1)).squeeze(-1)


def _band(x: torch.Tensor, num_lower: Any, num_upper: Any) -> torch.Tensor:
    """tf.linalg.band_part: a band around the diagonal; a negative number keeps all elements on that side."""
    row = torch.arange(x.shape[-2], device=x.device)[:, None]
    column = torch.arange(x.shape[-1], device=x.device)
    lower, upper = int(num_lower), int(num_upper)
    near = ((lower < 0) | (row - column <= lower)) & ((upper < 0) | (column - row <= upper))
    return torch.where(near, x, torch.zeros_like(x))


def _diagonal(x: torch.Tensor, k: int = 0) -> torch.Tensor:
    return torch.diag_embed(x, k)


def _diagonal_part(x: torch.Tensor, k: int = 0) -> torch.Tensor:
    return torch.diagonal(x, k, -2, -1)


def _with_diagonal(x: torch.Tensor, diagonal: Any, k: int = 0) -> torch.Tensor:
    values = torch.as_tensor(diagonal, device=x.device).to(x.dtype)
    return torch.diagonal_scatter(x, values.expand(_diagonal_part(x, k).shape), k, -2, -1)


def _tensor_diagonal(x: torch.Tensor) -> torch.Tensor:
    return torch.diagflat(x).reshape(*x.shape, *x.shape)


def _tensor_diagonal_part(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[: x.ndim // 2]
    size = half.numel()
    return torch.diagonal(x.reshape(size, size)).reshape(half)


def _solved(matrix: Any, rhs: Any, adjoint: bool = False) -> Any:
    a, b = as_tensors(matrix, rhs)
    return torch.linalg.solve(_flipped(a, False, adjoint), b)


def _triangular(matrix: Any, rhs: Any, lower: bool = True, adjoint: bool = False) -> Any:
    a, b = as_tensors(matrix, rhs)
    return torch.linalg.solve_triangular(_flipped(a, False, adjoint), b, upper=bool(lower) == bool(adjoint))


def _inverted(x: torch.Tensor, adjoint: bool = False) -> Any:
    return torch.linalg.inv(_flipped(x, False, adjoint))


def _pseudo_inverse(a: torch.Tensor, rcond: Any = None) -> Any:
    return torch.linalg.pinv(a, rtol=10 * max(a.shape[-2:]) * torch.finfo(a.dtype).eps if rcond is None else rcond)


def _singular(tensor: torch.Tensor, full_matrices: bool = False, compute_uv: bool = True) -> Any:
    """tf.linalg.svd: singular values first, right vectors as columns."""
    if not compute_uv:
        return torch.linalg.svdvals(tensor)
    left, values, right = torch.linalg.svd(tensor, full_matrices)
    return [values, left, right.mH]


def _orthogonal(x: torch.Tensor, full_matrices: bool = False) -> list[torch.Tensor]:
    return list(torch.linalg.qr(x, "complete" if full_matrices else "reduced"))


def _rank(a: torch.Tensor, tol: Any = None) -> Any:
    return torch.linalg.matrix_rank(a, atol=tol).to(torch.int32)


def _norm(tensor: torch.Tensor, ord: Any = "euclidean", axis: Any = None, keepdims: Any = None) -> Any:
    """tf.norm of vectors, or of matrices for two axes."""
    axes = axis if axis is None or isinstance(axis, int) else [int(a) for a in axis]
    if ord in ("euclidean", "fro") or (ord == 2 and not isinstance(axes, list)):
        return torch.linalg.vector_norm(tensor, 2, axes, bool(keepdims))
    if not isinstance(axes, list):
        return torch.linalg.vector_norm(tensor, ord, axes, bool(keepdims))
    return torch.linalg.matrix_norm(tensor, ord, axes, bool(keepdims))


def _normalized(tensor: torch.Tensor, ord: Any = "euclidean", axis: Any = None) -> list[torch.Tensor]:
    """tf.linalg.normalize: the tensor divided by its norm, and the norm."""
    norm = _norm(tensor, ord, axis, True)
    if axis is None:
        norm = norm.reshape([1] * tensor.ndim)
    return [tensor / norm, norm]


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "Adjoint": lambda x: x.mH,
    "BandPart": _band,
    "Diag": _diagonal,
    "DiagPart": _diagonal_part,
    "Eigh": lambda x: list(torch.linalg.eigh(x)),
    "Eigvalsh": torch.linalg.eigvalsh,
    "Expm": torch.linalg.matrix_exp,
    "Inv": _inverted,
    "Matmul": _product,
    "MatrixRank": _rank,
    "Matvec": _vector_product,
    "Norm": _norm,
    "NormalizeBy": _normalized,
    "Pinv": _pseudo_inverse,
    "Qr": _orthogonal,
    "SetDiag": _with_diagonal,
    "Solve": _solved,
    "Svd": _singular,
    "TensorDiag": _tensor_diagonal,
    "TensorDiagPart": _tensor_diagonal_part,
    "Trace": lambda x: _diagonal_part(x).sum(-1),
    "TriangularSolve": _triangular,
}

OPERATIONS: dict[str, type[Operation]] = {
    f"tf>{name}": function_node(name, function) for name, function in _FUNCTIONS.items()
}
