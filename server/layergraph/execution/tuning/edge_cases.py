"""Inputs on which engines have differed from eager torch although they agreed on random ones."""

from __future__ import annotations

import numpy as np

from layergraph.execution.samples import Array, Sampler

#: Largest integers that are used.
_WIDEST = 1 << 40


def unusual_rows(sampler: Sampler) -> list[list[Array]]:
    """Inputs of one row or three. A model may refuse some of them."""
    few, some = sampler.rows(1), sampler.rows(3)
    # Constant: a division by the spread of the values gives NaN inside, which engines may handle differently.
    unusual = [[np.full_like(array, value) for array in few] for value in (0, 1)]
    # Few distinct values: the order of equal ones matters (argmax, top_k), and so do divisions by 0.
    unusual.append([_of_few(array) for array in some])
    if any(array.dtype.kind in "iu" for array in few):
        # Integers that float32 can't represent exactly.
        unusual.append([_wide(array) for array in few])
    return unusual


def _of_few(array: Array) -> Array:
    """Small whole numbers, some of them 0."""
    if array.dtype.kind == "f":
        return np.rint(array)
    return array % 3 if array.dtype.kind in "iu" else array


def _wide(array: Array) -> Array:
    """Integers from the whole range of the dtype."""
    if array.dtype.kind not in "iu":
        return array
    limits = np.iinfo(array.dtype)
    low, high = max(limits.min, -_WIDEST), min(limits.max, _WIDEST)
    shape: tuple[int, ...] = array.shape
    return np.random.default_rng(0).integers(low, high, shape, endpoint=True).astype(array.dtype)
