"""How a training process stands back behind serving."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")


def stand_back(nice: int, *, idle: bool = False) -> None:
    """Lowers this process's priority by `nice` (0 keeps what it has inherited), and that of its session.

    Outside of control groups Linux shares the processor between sessions first (sched_autogroup_enabled), and a run has
    a session of its own: niceness alone would count among the run's own processes only.

    `idle` takes only what the others of its control group leave. It is nothing for autogroups: there the session as a
    whole isn't idle, yet a core that runs it is taken for an idle one, and woken threads that are sent there wait.
    """
    niceness = os.nice(nice)
    # Not all systems have them.
    with contextlib.suppress(OSError):
        _AUTOGROUP.write_text(str(niceness))
    if idle:
        with contextlib.suppress(OSError, AttributeError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
