"""Rows on which engines differed that agreed on random ones."""

from __future__ import annotations

import numpy as np

from layergraph.execution.samples import Array, Sampler

#: Largest integers that are tried.
_WIDEST = 1 << 40


def unusual_rows(sampler: Sampler) -> list[list[Array]]:
    """Inputs of a row, or of three; a model may refuse some."""
    few, some = sampler.rows(1), sampler.rows(3)
    # Of one number: what is divided by how much numbers differ is NaN inside, which engines may not see.
    unusual = [[np.full_like(array, value) for array in few] for value in (0, 1)]
    # Of few numbers: which of equal ones comes first, and what comes of some that are divided by 0.
    unusual.append([_of_few(array) for array in some])
    if any(array.dtype.kind in "iu" for array in few):
        # Of integers that floats of 32 bits don't hold.
        unusual.append([_wide(array) for array in few])
    return unusual


def _of_few(array: Array) -> Array:
    """Small whole numbers, of which some are 0."""
    if array.dtype.kind == "f":
        return np.rint(array)
    return array % 3 if array.dtype.kind in "iu" else array


def _wide(array: Array) -> Array:
    """Integers of any size that the type has."""
    if array.dtype.kind not in "iu":
        return array
    limits = np.iinfo(array.dtype)
    low, high = max(limits.min, -_WIDEST), min(limits.max, _WIDEST)
    shape: tuple[int, ...] = array.shape
    return np.random.default_rng(0).integers(low, high, shape, endpoint=True).astype(array.dtype)
