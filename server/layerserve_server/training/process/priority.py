"""Scheduling priority of training processes, below that of serving."""

from __future__ import annotations

import os
import time
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")
#: Linux lets only one process of a user without rights set it every 0.1 seconds, on the whole machine.
TRIES, PAUSE_SECONDS = 20, 0.05


def lower_priority(nice: int) -> None:
    """Lowers this process's priority by `nice`, and that of its session.

    Outside of control groups Linux divides the processor among sessions first (sched_autogroup_enabled). A run has its
    own session, so the niceness of a process would matter only within the run.
    """
    niceness = os.nice(nice)
    for _ in range(TRIES):
        try:
            _AUTOGROUP.write_text(str(niceness))
        except BlockingIOError:
            time.sleep(PAUSE_SECONDS)
        except OSError:
            return  # not all systems have this file
        else:
            return
