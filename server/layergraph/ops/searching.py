"""Order and search: sorting, the largest, where values belong (keras.ops.numpy and math)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import (
    boolean,
    integer,
    one_of,
    option,
    optional,
    positive_int,
)
from layergraph.functional.run import Run
from layergraph.ops.operation import Operation, as_tensors


class Sort(Operation):
    """keras.ops.sort."""

    axis: int | None = option(optional(integer), default=-1)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """x in order."""
        return torch.sort(x.reshape(-1)).values if self.axis is None else torch.sort(x, self.axis).values


class Argsort(Operation):
    """keras.ops.argsort."""

    axis: int | None = option(optional(integer), default=-1)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """The indices in order of the values."""
        x, axis = (x.reshape(-1), 0) if self.axis is None else (x, self.axis)
        return torch.argsort(x, dim=axis, stable=True).to(torch.int32)


class TopK(Operation):
    """keras.ops.top_k."""

    keras_module = "keras.src.ops.math"

    k: int = option(positive_int)
    sorted: bool = option(boolean, default=True)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> list[torch.Tensor]:
        """The largest of the last axis, and where they are."""
        values, indices = torch.topk(x, self.k, sorted=True)
        return [values, indices.to(torch.int32)]


class InTopK(Operation):
    """keras.ops.in_top_k."""

    keras_module = "keras.src.ops.math"

    k: int = option(positive_int)

    def forward(self, run: Run, w: Any, targets: torch.Tensor, predictions: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Whether the target is among the k best; ties count."""
        chosen = predictions.gather(-1, targets.to(torch.int64)[:, None])
        return (predictions > chosen).sum(-1) < self.k


class Digitize(Operation):
    """keras.ops.digitize."""

    def forward(self, run: Run, w: Any, x: torch.Tensor, bins: Any) -> torch.Tensor:  # type: ignore[override]
        """In which bin each value is."""
        edges = torch.as_tensor(bins, device=x.device)
        return torch.bucketize(x.contiguous(), edges.to(x.dtype) if x.is_floating_point() else edges, right=True).to(
            torch.int32
        )


class SearchSorted(Operation):
    """keras.ops.searchsorted."""

    side: str = option(one_of("left", "right"), default="left")

    def forward(self, run: Run, w: Any, sorted_sequence: Any, values: Any) -> torch.Tensor:  # type: ignore[override]
        """Where values would go in a sorted sequence."""
        sequence, wanted = as_tensors(sorted_sequence, values)
        return torch.searchsorted(sequence, wanted, side=self.side).to(torch.int32)


OPERATIONS: dict[str, type[Operation]] = {
    "Argsort": Argsort,
    "Digitize": Digitize,
    "InTopK": InTopK,
    "SearchSorted": SearchSorted,
    "Sort": Sort,
    "TopK": TopK,
}
