"""Memory for arrays that are about to be read from a file."""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: Bytes of a huge page on x86-64 and on ARM with pages of 4 KiB.
_HUGE_PAGE = 2 << 20


def uninitialised(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array without values, in huge pages where it is large enough for one and the system has them.

    Of the time to load a model most went to page faults: one for each 4 KiB, one for each 2 MiB with huge pages.
    numpy asks for them as well, but from where malloc put the array, which is hardly ever the start of a huge page.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < _HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(shape, dtype)
    # Pages that nobody touches take no memory: neither those before the start nor those behind the end.
    memory = mmap.mmap(-1, nbytes + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel without them
        return np.empty(shape, dtype)
    start = -np.frombuffer(memory, np.uint8).ctypes.data % _HUGE_PAGE
    return np.frombuffer(memory, dtype, math.prod(shape), start).reshape(shape)
