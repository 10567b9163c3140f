"""Rows of an array that is mapped from a file, read in any order, also where the file is larger than memory."""

from __future__ import annotations

import mmap
import resource
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: Takes for which rows are asked for ahead once the system had to read, before it is tried without again.
ADVISED_TAKES = 1000
#: Only Linux counts by thread.
_OF_THREAD: int = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)


class MappedRows:
    """Rows of `array`, which is mapped from a file.

    For a page that isn't in memory the system also reads those around it. Where rows are taken in random order and
    memory is too small for the file, nearly all of that is read in vain: 2 seconds for 256 rows of 16 KiB, measured
    with 10 GB in a container of 1 GiB. Rows that are asked for ahead are read alone, many at once: 20 milliseconds.
    Asking costs a call for each row; so it is left out while all that is taken lies in memory.
    """

    def __init__(self, array: Array) -> None:
        self._array = array
        self._row_bytes = array.nbytes // max(1, len(array))
        self._map = _map_of(array) if array.flags.c_contiguous and self._row_bytes else None
        if self._map is not None:
            self._start = array.ctypes.data - np.frombuffer(self._map, np.uint8).ctypes.data
        self._advised_takes = 0

    def take(self, rows: Array) -> Array:
        """A copy of the rows with these numbers."""
        if self._map is None:
            return np.array(self._array[rows])
        if self._advised_takes:
            self._advised_takes -= 1
            self._ask_for(rows, self._map)
            return np.array(self._array[rows])
        before = _reads()
        found = np.array(self._array[rows])
        if _reads() > before:
            self._advised_takes = ADVISED_TAKES
        return found

    def _ask_for(self, rows: Array, mapped: mmap.mmap) -> None:
        for row in rows.tolist():
            first = self._start + row * self._row_bytes
            page = first - first % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, page, first + self._row_bytes - page)


def _map_of(array: Array) -> mmap.mmap | None:
    """The mapping that the array is a view of, if the system takes advice on one."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) and hasattr(base, "madvise") else None


def _reads() -> int:
    """How often this thread has waited for the disk."""
    return resource.getrusage(_OF_THREAD).ru_majflt
