"""Operations on the diagonals of matrices (keras.ops.numpy)."""

from __future__ import annotations

import torch

from layergraph.config.options import (
    integer,
    option,
)
from layergraph.functional.call_context import CallContext
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation


class _Diagonal(Operation):
    offset: int = option(integer, default=0)
    axis1: int = option(integer, default=0)
    axis2: int = option(integer, default=1)


class Diagonal(_Diagonal):
    """The diagonal (keras.ops.diagonal)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return torch.diagonal(x, self.offset, self.axis1, self.axis2)


class Trace(_Diagonal):
    """The sum of the diagonal (keras.ops.trace)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        y = torch.diagonal(x, self.offset, self.axis1, self.axis2).sum(-1)
        return y if x.is_floating_point() else y.to(torch.promote_types(x.dtype, torch.int32))


class _Offset(Operation):
    k: int = option(integer, default=0)


class Diag(_Offset):
    """The diagonal of a matrix, or a matrix with a diagonal (keras.ops.diag)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return torch.diag(x, self.k)


class Diagflat(_Offset):
    """The matrix with all elements on its diagonal (keras.ops.diagflat)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return torch.diagflat(x, self.k)


class Tril(_Offset):
    """The elements on and below a diagonal (keras.ops.tril)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return torch.tril(x, self.k)


class Triu(_Offset):
    """The elements on and above a diagonal (keras.ops.triu)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return torch.triu(x, self.k)


OPERATIONS: dict[str, type[Operation]] = {
    "Diag": Diag,
    "Diagflat": Diagflat,
    "Diagonal": Diagonal,
    "Trace": Trace,
    "Tril": Tril,
    "Triu": Triu,
}
