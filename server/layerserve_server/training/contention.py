"""Who has the processor: what Linux counts of this process and of the server that it trains for."""

from __future__ import annotations

import os
from pathlib import Path

#: Names the process that a run is trained for.
SERVER = "LAYERSERVE_SERVER_PID"


def seconds_waited() -> float:
    """How long this thread has waited for a core; 0 where the system doesn't count that."""
    fields = _read("/proc/thread-self/schedstat")
    return int(fields[1]) / 1e9 if fields else 0.0


def seconds_served(server: int) -> float:
    """Processor time of a server, and of those of its processes that answer requests with it, in hundredths.

    Runs aren't among these: they have sessions of their own. 0 where there is no such process, or no such system.
    """
    session, ticks = _stat(server)
    others = [_stat(int(child)) for child in _read(f"/proc/{server}/task/{server}/children")]
    return (ticks + sum(other for of, other in others if of == session)) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> tuple[str, int]:
    """A process's session, and the ticks that it has computed."""
    # Its name comes second, in brackets, and may hold anything.
    fields = _read(f"/proc/{pid}/stat", after=")")
    return (fields[3], int(fields[11]) + int(fields[12])) if fields else ("", 0)


def _read(path: str, after: str = "") -> list[str]:
    try:
        text = Path(path).read_text()
    except OSError:
        return []
    return (text.rpartition(after)[2] if after else text).split()
