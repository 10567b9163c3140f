"""Information about processes from Linux's /proc."""

from __future__ import annotations

from pathlib import Path


def stat_of(pid: int) -> list[str]:
    """Returns the fields of /proc/PID/stat from the third on: state, parent, group, session, ...; empty if it ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    # "12 (name) S 7 ...": the name may contain spaces and parentheses.
    return text.rpartition(")")[2].split()


def children_of(pid: int) -> list[int]:
    """Returns the ids of a process's living children, started by any of its threads."""
    others = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [other for other in others if stat_of(other)[1:2] == [str(pid)]]


def descendants_of(pid: int) -> list[int]:
    """Returns the ids of a process's living children, their children, and so on."""
    children: dict[str, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        for parent in stat_of(int(path.name))[1:2]:
            children.setdefault(parent, []).append(int(path.name))
    found = [pid]
    for one in found:
        found += children.get(str(one), [])
    return found[1:]
