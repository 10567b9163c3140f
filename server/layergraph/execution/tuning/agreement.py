"""How far an engine's outputs are from eager torch's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

#: Largest difference from eager torch, relative to what is larger of 1 and the number.
TOLERANCE = 1e-5
#: As much on data that clients send, which may be of any size: what it is to show are mistakes, not rounding.
LOOSE_TOLERANCE = 1e-4


#: Numbers that are compared at a time, so that their copies in float64 stay in the processor's cache.
_BLOCK = 1 << 16


def difference(got: Sequence[Array], expected: Sequence[Array]) -> float:
    """The largest difference, relative to what is larger of 1 and the number; infinite if shapes or types differ."""
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
    # The engine's own infinities make the difference infinite; so do its NaNs.
    largest = float(off.max(initial=0.0))
    return math.inf if math.isnan(largest) else largest


def same_kind(got: Sequence[Array], expected: Sequence[Array]) -> bool:
    """Whether shapes and types are the same."""
    pairs = zip(got, expected, strict=True)
    return all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
