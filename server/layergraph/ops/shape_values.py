"""Numbers that shapes tell, and arrays filled with one number (tf.shape, keras.ops.full and the like)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import (
    integer,
    one_or_list_of,
    option,
    optional,
)
from layergraph.functional.run import Run
from layergraph.ops.operation import Operation, Typed


def whole(value: Any) -> int:
    """A number of a shape: a plain one, or a tensor of one element whose value is known."""
    return int(value.item()) if isinstance(value, torch.Tensor) else int(value)


class Shape(Operation):
    """The lengths of the axes (tf.shape, keras.ops.shape). Its values are known before data comes, but for None."""

    keras_module = "layergraph.ops"

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """The shape as int32, on the processor: it is used to tell other shapes."""
        return torch.tensor(list(x.shape), dtype=torch.int32)


class Size(Operation):
    """keras.ops.size."""

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """The number of elements."""
        return torch.tensor(x.numel(), dtype=torch.int32)


class Ndim(Operation):
    """keras.ops.ndim."""

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """The number of axes."""
        return torch.tensor(x.ndim, dtype=torch.int32)


class Full(Typed):
    """keras.ops.full, tf.fill."""

    reads_values = True
    computes_values = True
    shape: Any = option(optional(one_or_list_of(integer)), default=None)

    def forward(self, run: Run, w: Any, fill_value: Any, shape: Any = None) -> torch.Tensor:
        """One value everywhere. `shape` in the call may hold tensors."""
        lengths = self.shape if shape is None else shape
        lengths = lengths.tolist() if isinstance(lengths, torch.Tensor) else lengths
        lengths = [whole(n) for n in (lengths if isinstance(lengths, (list, tuple)) else [lengths])]
        value = fill_value if isinstance(fill_value, torch.Tensor) else torch.as_tensor(fill_value)
        return self.converted(value).expand(lengths)


OPERATIONS: dict[str, type[Operation]] = {
    "Full": Full,
    "Ndim": Ndim,
    "Size": Size,
    "tf>Shape": Shape,
}
