"""What is brought to the disk, and when files take others' places."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest


def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """A list that grows as things happen.

    ("sync", bytes) for a file that is brought to the disk with so many bytes, ("sync folder", inode) for a folder, and
    ("replace", name) for a file that takes the place of that name.
    """
    events: list[tuple[str, Any]] = []
    sync, replace = os.fsync, os.replace

    def recorded_sync(descriptor: Any) -> None:
        status = os.fstat(descriptor)
        folder = stat.S_ISDIR(status.st_mode)
        events.append(("sync folder", status.st_ino) if folder else ("sync", status.st_size))
        sync(descriptor)

    def recorded_replace(source: Any, target: Any) -> None:
        events.append(("replace", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    return events
