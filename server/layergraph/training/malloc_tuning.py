"""Keeps memory that one training step frees for the next one.

By default glibc returns large blocks to the system when they are freed. Each step then allocates them again, page by
page, and the kernel zeroes each page: a third of the training time of recurrent layers, which keep all timesteps for
the gradients.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Largest threshold in bytes; mallopt takes a C int.
_ALL = 2**31 - 1
#: Upper limit in bytes of glibc's dynamic mmap threshold.
_USUAL_MMAP_THRESHOLD = 32 * 1024**2
#: Free bytes that the process may keep after a run, since the next run is often of the same model.
_KEPT_AFTERWARDS = 512 * 1024**2
#: Environment variables with which users set these parameters.
_VARIABLES = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")

_lock = threading.Lock()
_users = 0


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keeps freed memory while the context is active; on exit, returns it if it is much. Contexts may overlap."""
    glibc = _glibc()
    if glibc is None:
        yield
        return
    _begin(glibc)
    try:
        yield
    finally:
        _end(glibc)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc and malloc isn't configured by environment variables; else None."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    known = hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt")
    return library if known and not any(name in os.environ for name in _VARIABLES) else None


def _begin(glibc: ctypes.CDLL) -> None:
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            # glibc before 2.35 limits the mmap threshold.
            if not glibc.mallopt(_MMAP_THRESHOLD, _ALL):
                glibc.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP_THRESHOLD)
            glibc.mallopt(_TRIM_THRESHOLD, _ALL)


def _end(glibc: ctypes.CDLL) -> None:
    global _users
    with _lock:
        _users -= 1
        if not _users:
            glibc.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP_THRESHOLD)
            glibc.mallopt(_TRIM_THRESHOLD, _KEPT_AFTERWARDS)
            if _free_bytes(glibc) > _KEPT_AFTERWARDS:
                glibc.malloc_trim(0)


class _Statistics(ctypes.Structure):
    """The struct of mallinfo2 (malloc.h)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _free_bytes(glibc: ctypes.CDLL) -> float:
    """Bytes that are free but not returned to the system; infinite before glibc 2.33, which can't report them."""
    if not hasattr(glibc, "mallinfo2"):
        return math.inf
    glibc.mallinfo2.restype = _Statistics
    return float(glibc.mallinfo2().fordblks)
