"""Scheduling priority of training processes, below that of serving."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")


def lower_priority(nice: int) -> None:
    """Lowers this process's priority by `nice`, and that of its session.

    Outside of control groups Linux divides the processor among sessions first (sched_autogroup_enabled). A run has its
    own session, so the niceness of a process would matter only within the run.
    """
    niceness = os.nice(nice)
    # Not all systems have this file.
    with contextlib.suppress(OSError):
        _AUTOGROUP.write_text(str(niceness))
