"""Processor usage of this process and of its server, as counted by Linux."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from layerserve_server.training.proc_files import children_of, stat_of

#: Environment variable with the process id of the server that started a run.
SERVER = "LAYERSERVE_SERVER_PID"
#: Indices of a process's session, and of its user and system time in ticks, in the fields of `stat_of`.
_SESSION, _TICKS = 3, slice(11, 13)


def seconds_waited() -> float:
    """Returns how long this thread has waited for a core, in seconds; 0 if the system doesn't count that."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def serving_processes(server: int) -> list[int]:
    """Returns the process ids of a server and its serving workers. Runs are in other sessions."""
    session = stat_of(server)[_SESSION : _SESSION + 1]
    return [server, *(pid for pid in children_of(server) if stat_of(pid)[_SESSION : _SESSION + 1] == session)]


def seconds_served(processes: Sequence[int]) -> float:
    """Returns the total processor time of processes, in seconds, to hundredths. Ended processes count 0."""
    ticks = sum(int(field) for pid in processes for field in stat_of(pid)[_TICKS])
    return ticks / os.sysconf("SC_CLK_TCK")
