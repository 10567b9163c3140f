"""Large data in chunks: a step that holds Python's lock for long delays the calls of all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

#: Number of bytes that are copied at once, and of elements that are converted: both take a few milliseconds at most.
CHUNK_BYTES = 1 << 20
CHUNK_ELEMENTS = 1 << 16


def as_array(values: Sequence[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Returns the elements of a message's repeated field as an array with one axis. Raises OverflowError."""
    array = np.empty(len(values), dtype)
    for start in range(0, len(values), CHUNK_ELEMENTS):
        array[start : start + CHUNK_ELEMENTS] = values[start : start + CHUNK_ELEMENTS]
    return array
