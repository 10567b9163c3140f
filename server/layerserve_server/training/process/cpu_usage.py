"""Who has the processor: what Linux counts of this process and of the server that it trains for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from layerserve_server.training.process.proc_files import children_of, stat_of

#: Names the process that a run is trained for.
SERVER = "LAYERSERVE_SERVER_PID"
#: Where a process's fields have its session, and the ticks that it has computed, for itself and in the system.
_SESSION, _TICKS = 3, slice(11, 13)


def seconds_waited() -> float:
    """How long this thread has waited for a core; 0 where the system doesn't count that."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def serving_processes(server: int) -> list[int]:
    """A server, and those of its processes that answer requests with it: runs have sessions of their own."""
    session = stat_of(server)[_SESSION : _SESSION + 1]
    return [server, *(pid for pid in children_of(server) if stat_of(pid)[_SESSION : _SESSION + 1] == session)]


def seconds_served(processes: Sequence[int]) -> float:
    """Processor time of these processes, in hundredths; 0 for those that aren't there."""
    ticks = sum(int(field) for pid in processes for field in stat_of(pid)[_TICKS])
    return ticks / os.sysconf("SC_CLK_TCK")
