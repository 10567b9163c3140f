"""Memory that one step frees and the next takes again: while a model trains, the process keeps it.

By itself glibc gives large blocks back to the system when they are freed. Each step then takes them anew, page by page,
and each page comes zeroed: a third of the time that recurrent layers train, which keep all steps for the gradients.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Numbers of glibc's parameters (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Bytes up to which freed blocks are kept; a parameter is a C int.
_ALL = 2**31 - 1
#: What glibc at most comes to by itself, in bytes, as programs free ever larger blocks.
_USUAL_MMAP_THRESHOLD = 32 * 1024**2
#: Free bytes that the process may keep after a run: the next one is often of the same model.
_KEPT_AFTERWARDS = 512 * 1024**2
#: By which users set the same.
_VARIABLES = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")

_lock = threading.Lock()
_users = 0


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Has freed memory kept for the block, and then gives it back if it is much. Blocks may overlap."""
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
    """The process's allocator, if it is glibc's and nobody has set it up otherwise."""
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
            # Before 2.35 there is a limit to what is taken.
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
    """What mallinfo2 gives (malloc.h)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _free_bytes(glibc: ctypes.CDLL) -> float:
    """Bytes that are free but not given back; before 2.33 nobody knows."""
    if not hasattr(glibc, "mallinfo2"):
        return math.inf
    glibc.mallinfo2.restype = _Statistics
    return float(glibc.mallinfo2().fordblks)
