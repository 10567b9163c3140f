"""Ranges and powers (keras.ops.numpy)."""

from __future__ import annotations

import math
from typing import Any

import torch

from layergraph.config.options import boolean, integer, nonnegative_int, number, option, optional
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation, Typed, as_tensors

#: Maximum number of elements of a range.
_LONGEST = 10_000_000


class Arange(Typed):
    """Evenly spaced integers (keras.ops.arange, tf.range)."""

    computes_values = True

    def forward(self, context: CallContext, w: Weights, start: Any, stop: Any = None, step: Any = None) -> torch.Tensor:
        first, last = (0, start) if stop is None else (start, stop)
        given = (first, last, 1 if step is None else step)
        values = [x.item() if isinstance(x, torch.Tensor) else x for x in given]
        # While shapes are inferred, an end that comes from a shape is longer than that of real data.
        inferred = context.symbolic_dims is not None and any(isinstance(x, torch.Tensor) for x in given)
        is_long = values[2] == 0 or abs(values[1] - values[0]) / abs(values[2]) > _LONGEST
        if is_long and not (inferred and values[2]):
            raise GraphError(f"a range of {values} has too many elements, expected at most {_LONGEST}")
        kind = torch.int32 if all(isinstance(x, int) for x in values) else torch.float32
        if is_long:
            count = max(math.ceil((values[1] - values[0]) / values[2]), 0)
            return self.converted(torch.empty(count, dtype=kind, device="meta"))
        return self.converted(torch.arange(*values, dtype=kind))


class _Spaced(Typed):
    inserts_axis = True

    num: int = option(nonnegative_int, default=50)
    endpoint: bool = option(boolean, default=True)
    axis: int = option(integer, default=0)

    def forward(self, context: CallContext, w: Weights, start: Any, stop: Any) -> Any:  # type: ignore[override]
        """Numbers from start to stop along a new axis. Raises GraphError if there are too many."""
        first, last = as_tensors(start, stop)
        if self.num * max(first.numel(), last.numel()) > _LONGEST and not first.is_meta:
            raise GraphError(f"got {self.num} numbers per range, expected at most {_LONGEST} in total")
        widest = torch.promote_types(torch.promote_types(first.dtype, last.dtype), torch.float32)
        widest = widest if self.element_type is None else torch_dtype(self.element_type)
        computed = widest if widest.is_floating_point else torch.float32
        y = self.between(*torch.broadcast_tensors(first.to(computed), last.to(computed)))  # type: ignore[no-untyped-call]
        return y.to(widest).movedim(0, self.axis)

    def between(self, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """The numbers along the first axis."""
        parts = self.num - 1 if self.endpoint else self.num
        steps = torch.arange(self.num, dtype=first.dtype, device=first.device) / max(parts, 1)
        return first + steps.reshape(-1, *[1] * first.ndim) * (last - first)


class Linspace(_Spaced):
    """Evenly spaced numbers, and their distance if `retstep` (keras.ops.linspace)."""

    retstep: bool = option(boolean, default=False)

    def forward(self, context: CallContext, w: Weights, start: Any, stop: Any) -> Any:  # type: ignore[override]
        y = super().forward(context, w, start, stop)
        if not self.retstep:
            return y
        parts = self.num - 1 if self.endpoint else self.num
        first, last = as_tensors(start, stop)
        return [y, (last - first) / parts]


class Logspace(_Spaced):
    """keras.ops.logspace."""

    base: float = option(number, default=10)

    def between(self, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Powers of the base with evenly spaced exponents."""
        return torch.pow(self.base, super().between(first, last))


class Geomspace(_Spaced):
    """keras.ops.geomspace."""

    def between(self, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Numbers with a constant ratio."""
        return 10 ** super().between(first.abs().log10(), last.abs().log10()) * first.sign()


class Vander(Operation):
    """Powers of each element (keras.ops.vander)."""

    N: int | None = option(optional(nonnegative_int), default=None)
    increasing: bool = option(boolean, default=False)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return torch.vander(x, self.N, self.increasing)


OPERATIONS: dict[str, type[Operation]] = {
    "Arange": Arange,
    "Geomspace": Geomspace,
    "Linspace": Linspace,
    "Logspace": Logspace,
    "Vander": Vander,
}
