"""Allocates memory for arrays to be read from a file."""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np

from layergraph.archive.weights import Array

#: Size of a huge page in bytes, on x86-64 and on ARM with 4 KiB pages.
_HUGE_PAGE = 2 << 20


def uninitialised(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Returns an uninitialised array, in huge pages if it is large enough for one and the system supports them.

    Most of the time to load a model was spent on page faults: one per 4 KiB, or one per 2 MiB with huge pages. numpy
    requests them as well, but malloc hardly ever aligns the array to a huge page.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < _HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(shape, dtype)
    # Untouched pages take no memory, neither before the aligned start nor after the end.
    memory = mmap.mmap(-1, nbytes + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel without them
        return np.empty(shape, dtype)
    start = -np.frombuffer(memory, np.uint8).ctypes.data % _HUGE_PAGE
    return np.frombuffer(memory, dtype, math.prod(shape), start).reshape(shape)
