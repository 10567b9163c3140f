"""Memory, as Linux counts it: of the machine, of the container, and of a process."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

#: Files of a control group, of version 2 and of version 1: how much memory it may have, and how much it has.
CONTROL_GROUPS = (
    ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def total_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that there are for this process: of the container's limit, and of the machine, the smaller."""
    totals = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit, _ in CONTROL_GROUPS:
        try:
            totals.append(int((root / limit).read_text()))
        except (OSError, ValueError):  # "max" is no number
            continue
    return min(totals)


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that a new process may take, by the system and by the container's limit. None where unknown."""
    found = [_kilobytes(root / "proc/meminfo", "MemAvailable"), _left_by_container(root)]
    return min((bytes for bytes in found if bytes is not None), default=None)


def memory_of(pid: int) -> int:
    """Memory of a process in bytes, without pages of files that it maps: the system takes those back at need."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "RssAnon") or 0


def trim_heap() -> None:
    """Gives freed memory back to the system, where the allocator is glibc: by itself it keeps much of it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _left_by_container(root: Path) -> int | None:
    """What the control group leaves; None without a limit."""
    for limit, used in CONTROL_GROUPS:
        try:
            return max(0, int((root / limit).read_text()) - int((root / used).read_text()))
        except (OSError, ValueError):  # "max" is no number
            continue
    return None


def _kilobytes(path: Path, name: str) -> int | None:
    """A line such as "MemAvailable:   1234 kB" of a file, in bytes."""
    try:
        for line in path.read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
