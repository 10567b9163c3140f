"""The stack on which this thread's signal handlers run, which a library may replace by memory that it frees later.

Python handles signals on the alternate stack of the thread, if there is one. OpenVINO sets one in the thread that
compiles a model and frees it with the model: the next signal that this thread handles would end the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator


class _Stack(ctypes.Structure):
    """stack_t of sigaltstack(2) on Linux."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


#: Flag of a stack that isn't used.
_DISABLED = 2


@contextlib.contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Restores the alternate signal stack of this thread after the block. Does nothing on other systems than Linux."""
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    read = libc.sigaltstack(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if read:
            before.flags &= _DISABLED
            libc.sigaltstack(ctypes.byref(before), None)
