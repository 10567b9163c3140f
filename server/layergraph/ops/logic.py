"""Comparisons and logic (keras.ops.not_equal, logical_or, any, ...)."""

from __future__ import annotations

from typing import Any as Anything

import torch

from layergraph.config.options import boolean, integer, one_or_list_of, option, optional
from layergraph.functional.run import Run
from layergraph.ops.operation import Operation

#: A tensor, or a number that stands for one.
Operand = Anything


def _pair(x1: Operand, x2: Operand) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as tensors on one device. A number among them keeps torch's rule: it doesn't widen the other's type."""
    device = next((x.device for x in (x1, x2) if isinstance(x, torch.Tensor)), None)
    return torch.as_tensor(x1, device=device), torch.as_tensor(x2, device=device)


class _Binary(Operation):
    """A function of two operands, broadcast."""

    def forward(self, run: Run, w: Anything, x1: Operand, x2: Operand) -> torch.Tensor:  # type: ignore[override]
        """Computes the result."""
        return self.function(*_pair(x1, x2))

    def function(self, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        """The function itself."""
        raise NotImplementedError


class Equal(_Binary):
    """x1 == x2 (keras.ops.equal)."""

    def function(self, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        """The function itself."""
        return torch.eq(x1, x2)


class NotEqual(_Binary):
    """x1 != x2 (keras.ops.not_equal)."""

    def function(self, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        """The function itself."""
        return torch.ne(x1, x2)


class LogicalAnd(_Binary):
    """x1 and x2 (keras.ops.logical_and)."""

    def function(self, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        """The function itself."""
        return torch.logical_and(x1, x2)


class LogicalOr(_Binary):
    """x1 or x2 (keras.ops.logical_or)."""

    def function(self, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        """The function itself."""
        return torch.logical_or(x1, x2)


class LogicalNot(Operation):
    """not x (keras.ops.logical_not)."""

    def forward(self, run: Run, w: Anything, x: torch.Tensor) -> torch.Tensor:
        """Computes the result."""
        return torch.logical_not(x)


class _Reduction(Operation):
    axis: Anything = option(optional(one_or_list_of(integer)), default=None)
    keepdims: bool = option(boolean, default=False)

    def _axes(self, x: torch.Tensor) -> tuple[int, ...]:
        if self.axis is None:
            return tuple(range(x.ndim))
        return self.axis if isinstance(self.axis, tuple) else (self.axis,)


class Any(_Reduction):
    """Whether any element along `axis` is true (keras.ops.any)."""

    def forward(self, run: Run, w: Anything, x: torch.Tensor) -> torch.Tensor:
        """Computes the result."""
        return torch.any(x.bool(), dim=self._axes(x), keepdim=self.keepdims)


class All(_Reduction):
    """Whether all elements along `axis` are true (keras.ops.all)."""

    def forward(self, run: Run, w: Anything, x: torch.Tensor) -> torch.Tensor:
        """Computes the result."""
        return torch.all(x.bool(), dim=self._axes(x), keepdim=self.keepdims)
