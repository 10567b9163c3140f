"""Memory of a run's tensors, kept by the process from step to step."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
#: Larger tensors than this are mapped on their own whatever is set: glibc takes no more.
_LARGEST = 32 << 20
#: What the heap may keep at its end.
_KEPT = 512 << 20


@contextmanager
def kept_memory() -> Iterator[None]:
    """Has the C library keep freed memory inside of it; afterwards the system gets it back.

    Otherwise the library gives large tensors back to the system when they are freed and asks for them again in the next
    step, whose pages are then cleared one by one: a fifth of a convolutional model's time. The C library must be glibc;
    with others nothing happens. Its thresholds can't be read, so that they stay as this sets them.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not (hasattr(library, "mallopt") and hasattr(library, "malloc_trim")):
        yield
        return
    assert library is not None
    library.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    library.mallopt(_M_TRIM_THRESHOLD, _KEPT)
    try:
        yield
    finally:
        library.malloc_trim(0)
