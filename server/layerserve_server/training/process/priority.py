"""How a training process stands back behind serving."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")


def stand_back(nice: int) -> None:
    """Lowers this process's priority by `nice`, and that of its session.

    Outside of control groups Linux shares the processor between sessions first (sched_autogroup_enabled), and a run has
    a session of its own: niceness alone would count among the run's own processes only.
    """
    niceness = os.nice(nice)
    # Not all systems have it.
    with contextlib.suppress(OSError):
        _AUTOGROUP.write_text(str(niceness))
