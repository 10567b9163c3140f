"""Whether a run computes on this machine: a lock that runs' processes share, and that the system frees with them."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

#: Name of the locked file in the folder of all runs.
LOCK = ".computing"


@contextlib.contextmanager
def computing(runs: Path) -> Iterator[None]:
    """Marks this process as one that computes a run in the folder `runs`. Raises OSError."""
    with (runs / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def is_computing(runs: Path) -> bool:
    """Returns whether a process computes a run in the folder `runs`."""
    try:
        with (runs / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there has been no run, or the file system has no locks
        return False
    return False
