"""Encoding of categories: as indices, or as vectors over all categories."""

from __future__ import annotations

import torch

#: Validated names of output modes, except 'tf_idf'.
MODES = ("int", "one_hot", "multi_hot", "count")


def encoded(
    indices: torch.Tensor, mode: str, depth: int, dtype: torch.dtype, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Encodes indices in one of the `MODES` (Keras's encode_categorical_inputs); those outside of 0 to depth - 1 are
    ignored.

    int         the indices
    one_hot     (..., depth); a last axis of length 1 is replaced
    multi_hot   1 for each category that occurs along axis 1, or along the only axis
    count       number of occurrences, or sum of `weights`
    """
    if mode == "int":
        return indices.to(dtype)
    if indices.ndim == 0:
        indices = indices.unsqueeze(-1)
    if mode == "one_hot":
        if indices.ndim > 1 and indices.shape[-1] == 1:
            indices = indices.squeeze(-1)
        return _counted(indices.unsqueeze(-1), torch.ones((), dtype=dtype, device=indices.device), depth)
    if weights is None:
        weights = torch.ones((), dtype=dtype, device=indices.device)
    axis = 1 if indices.ndim > 1 else 0
    counts = _counted(indices.movedim(axis, -1), weights.expand(indices.shape).movedim(axis, -1), depth)
    return counts if mode == "count" else counts.clamp(max=1)


def _counted(indices: torch.Tensor, weights: torch.Tensor, depth: int) -> torch.Tensor:
    """Sum of the weights of each category along the last axis: (..., n) -> (..., depth).

    Keras sums (..., n, depth) vectors, which don't fit into memory for long rows of many categories.
    """
    known = (indices >= 0) & (indices < depth)
    sums = weights.new_zeros((*indices.shape[:-1], depth))
    return sums.scatter_add_(-1, torch.where(known, indices, 0), torch.where(known, weights, 0))
