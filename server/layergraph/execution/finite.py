"""Whether arrays are finite: some engines handle no other values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def is_finite(array: np.ndarray[Any, Any]) -> bool:
    """Whether an array has no NaN or infinity. False, too, if the sum of its squares overflows."""
    if array.dtype.kind != "f":
        return True
    flat = array.reshape(-1)
    # One BLAS call is several times as fast as numpy.isfinite.
    return math.isfinite(np.dot(flat, flat))
