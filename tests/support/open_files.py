"""Files of one folder that this process has open: other threads open and close files of their own meanwhile."""

import os
from pathlib import Path


def open_below(folder: Path) -> list[str]:
    """Paths of the open files below a folder."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue  # closed meanwhile
        if Path(path).is_relative_to(folder):
            found.append(path)
    return found
