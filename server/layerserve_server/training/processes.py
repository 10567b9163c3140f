"""Processes, as Linux's /proc tells of them."""

from __future__ import annotations

from pathlib import Path


def stat_of(pid: int) -> list[str]:
    """State, parent, group, session and what else the system counts of a process; empty where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    # "12 (name) S 7 ...": the name may hold anything, also spaces and brackets.
    return text.rpartition(")")[2].split()


def children_of(pid: int) -> list[int]:
    """The processes that a process has started, whichever thread of it did, and that are still there."""
    others = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [other for other in others if stat_of(other)[1:2] == [str(pid)]]
