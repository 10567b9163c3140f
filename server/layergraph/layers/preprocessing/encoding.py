"""Encoding of categories: as indices, or as vectors over all categories."""

from __future__ import annotations

import torch

#: Validated names of output modes, except 'tf_idf'.
MODES = ("int", "one_hot", "multi_hot", "count")
#: Integers in which counts of long rows would begin anew at 0.
_SMALL = (torch.int8, torch.int16, torch.uint8, torch.uint16)
#: Floats in which adding 1 changes nothing from 256 or 2048 on.
_HALVES = (torch.float16, torch.bfloat16)


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
        ones = torch.ones((), dtype=dtype, device=indices.device)
        return _counted(indices.unsqueeze(-1), ones, depth).to(dtype)
    if weights is None:
        weights = torch.ones((), dtype=dtype, device=indices.device)
    axis = 1 if indices.ndim > 1 else 0
    counts = _counted(indices.movedim(axis, -1), weights.expand(indices.shape).movedim(axis, -1), depth)
    if mode == "multi_hot":
        return counts.clamp(max=1).to(dtype)
    # Keras's sums of small integers have 32 bits.
    return counts.to(torch.int32 if weights.dtype in _SMALL else weights.dtype)


def _counted(indices: torch.Tensor, weights: torch.Tensor, depth: int) -> torch.Tensor:
    """Sum of the weights of each category along the last axis, in a wide dtype: (..., n) -> (..., depth).

    Keras sums (..., n, depth) vectors, which don't fit into memory for long rows of many categories.
    """
    if weights.dtype in (*_SMALL, *_HALVES):
        weights = weights.to(torch.int32 if weights.dtype in _SMALL else torch.float32)
    known = (indices >= 0) & (indices < depth)
    sums = weights.new_zeros((*indices.shape[:-1], depth))
    return sums.scatter_add_(-1, torch.where(known, indices, 0), torch.where(known, weights, 0))
