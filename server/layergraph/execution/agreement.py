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


def difference(got: Sequence[Array], expected: Sequence[Array]) -> float:
    """The largest difference, relative to what is larger of 1 and the number; infinite if shapes or types differ."""
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return math.inf
        if not a.size:
            continue
        if a.dtype.kind != "f":
            worst = max(worst, 0.0 if np.array_equal(a, b) else math.inf)
            continue
        finite = np.isfinite(b)
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            return math.inf
        if finite.any():
            # The engine's own infinities make the difference infinite.
            x, y = a[finite].astype(np.float64), b[finite].astype(np.float64)
            worst = max(worst, float(np.max(np.abs(x - y) / np.maximum(1.0, np.abs(y)))))
    return worst if not math.isnan(worst) else math.inf


def same_kind(got: Sequence[Array], expected: Sequence[Array]) -> bool:
    """Whether shapes and types are the same."""
    pairs = zip(got, expected, strict=True)
    return all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
