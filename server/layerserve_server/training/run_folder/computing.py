"""Whether a run computes on this machine: a lock that runs' processes share, and that the system frees with them."""

from __future__ import annotations

import fcntl
from contextlib import AbstractContextManager
from pathlib import Path

from layerserve_server.disk import locked

#: Name of the locked file in the folder of all runs.
LOCK = ".computing"


def computing(runs: Path) -> AbstractContextManager[None]:
    """Marks this process as one that computes a run in the folder `runs`. Raises OSError."""
    return locked(runs / LOCK, shared=True)


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
