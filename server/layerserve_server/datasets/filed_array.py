"""What a data file holds, from its header: an array that can be mapped, or has to be unpacked."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np


@dataclass(frozen=True, slots=True)
class FiledArray:
    """An array in a file: dtype, shape, whether it can be mapped, the file's size and mtime, and the columns read."""

    dtype: str
    shape: tuple[int, ...]
    mapped: bool
    stamp: tuple[int, ...]
    columns: tuple[str, ...] = ()


def stamp(file: BinaryIO) -> tuple[int, ...]:
    """Returns a file's size in bytes and mtime in nanoseconds."""
    state = os.fstat(file.fileno())
    return state.st_size, state.st_mtime_ns


def size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Returns the number of bytes of an array."""
    return math.prod(shape) * dtype.itemsize
