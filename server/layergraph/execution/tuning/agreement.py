"""Differences between an engine's outputs and eager torch's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

#: Largest difference from eager torch, relative to max(1, |expected|).
TOLERANCE = 1e-5
#: The same for data of clients, which may be of any magnitude: this check is for mistakes, not for rounding.
LOOSE_TOLERANCE = 1e-4


#: Number of elements compared at a time, so that their float64 copies fit into the CPU's cache.
_BLOCK = 1 << 16


def difference(got: Sequence[Array], expected: Sequence[Array]) -> float:
    """Largest difference relative to max(1, |expected|); infinite if shapes or dtypes differ."""
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return math.inf
        if a.dtype.kind != "f":
            worst = max(worst, 0.0 if np.array_equal(a, b) else math.inf)
            continue
        a, b = a.reshape(-1), b.reshape(-1)
        for start in range(0, a.size, _BLOCK):
            worst = max(worst, _largest(a[start : start + _BLOCK], b[start : start + _BLOCK]))
    return worst


def _largest(got: Array, expected: Array) -> float:
    finite = np.isfinite(expected)
    if not finite.all():
        if not np.array_equal(got[~finite], expected[~finite], equal_nan=True):
            return math.inf
        got, expected = got[finite], expected[finite]
    y = expected.astype(np.float64)
    off = np.abs(got.astype(np.float64) - y)
    off /= np.maximum(1.0, np.abs(y))
    # Infinities and NaNs that only the engine gives make the difference infinite.
    largest = float(off.max(initial=0.0))
    return math.inf if math.isnan(largest) else largest


def same_kind(got: Sequence[Array], expected: Sequence[Array]) -> bool:
    """Whether shapes and dtypes are equal."""
    pairs = zip(got, expected, strict=True)
    return all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
