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


def name_of(pid: int) -> str:
    """The name that a process goes by in `ps`; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""


def children_of(pid: int) -> list[int]:
    """The processes that a process has started, whichever thread of it did, and that are still there."""
    others = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [other for other in others if stat_of(other)[1:2] == [str(pid)]]


def descendants_of(pid: int) -> list[int]:
    """The processes that a process has started, those that these have started, and so on."""
    children: dict[str, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        for parent in stat_of(int(path.name))[1:2]:
            children.setdefault(parent, []).append(int(path.name))
    found = [pid]
    for one in found:
        found += children.get(str(one), [])
    return found[1:]
