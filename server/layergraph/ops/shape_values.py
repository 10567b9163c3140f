"""Values derived from shapes, and arrays filled with one value (keras.ops.size, keras.ops.full, ...)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import (
    integer,
    one_or_list_of,
    option,
    optional,
)
from layergraph.functional.call_context import CallContext
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation, Typed


def whole(value: Any) -> int:
    """An integer of a shape: a number, or a tensor of one element with a known value."""
    return int(value.item()) if isinstance(value, torch.Tensor) else int(value)


class Size(Operation):
    """The number of elements (keras.ops.size)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor(x.numel(), dtype=torch.int32)


class Ndim(Operation):
    """The number of axes (keras.ops.ndim)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor(x.ndim, dtype=torch.int32)


class Full(Typed):
    """An array of one value (keras.ops.full, tf.fill). `shape` as an argument of the call may contain tensors."""

    reads_values = True
    computes_values = True
    shape: Any = option(optional(one_or_list_of(integer)), default=None)

    def forward(self, context: CallContext, w: Weights, fill_value: Any, shape: Any = None) -> torch.Tensor:
        lengths = self.shape if shape is None else shape
        lengths = lengths.tolist() if isinstance(lengths, torch.Tensor) else lengths
        lengths = [whole(n) for n in (lengths if isinstance(lengths, (list, tuple)) else [lengths])]
        whole_number = isinstance(fill_value, int) and not isinstance(fill_value, bool)
        value = torch.as_tensor(fill_value, dtype=torch.int32 if whole_number else None)
        return self.converted(value).expand(lengths)


OPERATIONS: dict[str, type[Operation]] = {
    "Full": Full,
    "Ndim": Ndim,
    "Size": Size,
}
