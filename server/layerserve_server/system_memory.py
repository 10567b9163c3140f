"""Memory of the machine, the container and processes, as counted by Linux."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

#: Files with the memory limit and the memory usage of a control group, for versions 2 and 1.
CONTROL_GROUPS = (
    ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def total_memory(root: Path = Path("/")) -> int:
    """Returns the machine's memory or the container's limit, whichever is smaller, in bytes."""
    totals = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit, _ in CONTROL_GROUPS:
        try:
            totals.append(int((root / limit).read_text()))
        except (OSError, ValueError):  # "max" means no limit
            continue
    return min(totals)


def available_memory(root: Path = Path("/")) -> int | None:
    """Returns the memory available for a new process, in the system and the container, in bytes; None if unknown."""
    found = [_kilobytes(root / "proc/meminfo", "MemAvailable"), _left_by_container(root)]
    return min((bytes for bytes in found if bytes is not None), default=None)


def memory_of(pid: int) -> int:
    """Returns the memory of a process without mapped files, whose pages the system can reclaim, in bytes."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "RssAnon") or 0


def trim_heap() -> None:
    """Returns freed memory to the system if the allocator is glibc's, which otherwise keeps much of it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _left_by_container(root: Path) -> int | None:
    """Returns the memory left within the control group's limit, in bytes; None if there is no limit."""
    for limit, used in CONTROL_GROUPS:
        try:
            return max(0, int((root / limit).read_text()) - int((root / used).read_text()))
        except (OSError, ValueError):  # "max" means no limit
            continue
    return None


def _kilobytes(path: Path, name: str) -> int | None:
    """Returns the value of a line such as "MemAvailable:   1234 kB" in a file, in bytes; None if there is none."""
    try:
        for line in path.read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
