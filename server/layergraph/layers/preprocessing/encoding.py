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
        return _one_hot(indices, depth, dtype)
    vectors = _one_hot(indices, depth, dtype if weights is None else weights.dtype)
    if weights is not None:
        vectors = vectors * weights.unsqueeze(-1)
    axis = 1 if indices.ndim > 1 else 0
    if mode == "count":
        return vectors.sum(axis)
    # amax over no elements raises an error; with an additional zero it gives zero.
    zero = vectors.new_zeros(()).expand(*vectors.shape[:axis], 1, *vectors.shape[axis + 1 :])
    return torch.cat([zero, vectors], axis).amax(axis)


def _one_hot(indices: torch.Tensor, depth: int, dtype: torch.dtype) -> torch.Tensor:
    return (indices.unsqueeze(-1) == torch.arange(depth, device=indices.device)).to(dtype)
