"""Large folders are flushed to disk after they are used first: whether a crash of the system can have damaged one."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from layerserve_server.disk import sync

#: File of a folder that may not be on disk yet. It holds until the system is started again.
UNFLUSHED: Final = "unflushed"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def mark(folder: Path) -> None:
    """Notes that a folder isn't on disk. Raises OSError."""
    (folder / UNFLUSHED).write_text(_boot())


def is_undamaged(folder: Path) -> bool:
    """Whether a folder exists, and no crash of the system can have damaged it."""
    try:
        return (folder / UNFLUSHED).read_bytes() == _boot().encode()
    except FileNotFoundError:
        return folder.is_dir()
    except OSError:
        return False


def flush(folder: Path) -> None:
    """Flushes a folder to disk, and removes its mark."""
    with suppress(OSError):
        for file in (*folder.rglob("*"), folder, folder.parent):
            sync(file)
        (folder / UNFLUSHED).unlink()


class Flusher:
    """Flushes folders in a thread: what uses them doesn't wait for that."""

    def __init__(self) -> None:
        self._folders: SimpleQueue[Path] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def add(self, folder: Path) -> None:
        """Has a folder flushed."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._flush_all, name="flush artifacts", daemon=True)
            self._thread.start()
        self._folders.put(folder)

    def _flush_all(self) -> None:
        while True:
            flush(self._folders.get())


def _boot() -> str:
    """Changes with each start of the system."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"
