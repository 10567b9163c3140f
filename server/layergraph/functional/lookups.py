"""Gradients of embeddings by lookup, as TensorFlow has them (IndexedSlices).

autograd adds up the sparse gradients of a table that is looked up several times, and thereby joins some rows of an id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Tensor = torch.Tensor


class Lookups:
    """The lookups of one step: by table, the ids and the gradients of their vectors, once gradients are computed."""

    def __init__(self) -> None:
        self._found: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def look_up(self, table: Tensor, ids: Tensor) -> Tensor:
        """The rows of `table`; their gradient goes to this object, if the table itself is trained."""
        if not table.is_leaf:
            return torch.nn.functional.embedding(ids, table)
        apply: Callable[..., Tensor] = _Lookup.apply
        return apply(table, ids, self._found.setdefault(id(table), []))

    def gradient(self, table: Tensor, other: Tensor | None) -> Tensor | None:
        """The gradient of a table: a sparse one with a row per lookup, or added to that of its other uses."""
        found = self._found.get(id(table))
        if not found:
            return other
        ids = torch.cat([ids.reshape(-1) for ids, _ in found])
        rows = torch.cat([gradient.reshape(-1, table.shape[1]) for _, gradient in found])
        if other is not None:
            return other.index_add(0, ids, rows)
        return torch.sparse_coo_tensor(ids[None], rows, table.shape, check_invariants=False)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, table: Tensor, ids: Tensor, found: list[tuple[Tensor, Tensor]]) -> Tensor:
        context.save_for_backward(ids)
        context.found = found
        return torch.nn.functional.embedding(ids, table)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[None, None, None]:
        (ids,) = context.saved_tensors
        context.found.append((ids, gradient))
        return None, None, None
