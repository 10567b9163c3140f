"""Whether a run computes on this machine: a lock that runs' processes share, and that the system frees with them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from layerserve_server.disk import is_locked, locked

#: Name of the locked file in the folder of all runs.
LOCK = ".computing"


def computing(runs: Path) -> AbstractContextManager[object]:
    """Marks this process as one that computes a run in the folder `runs`. Raises OSError."""
    return locked(runs / LOCK, shared=True)


def is_computing(runs: Path) -> bool:
    """Returns whether a process computes a run in the folder `runs`."""
    return is_locked(runs / LOCK, shared=True)
