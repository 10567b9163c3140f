"""Ownership of a folder by one of several servers: a lock that the system releases when the server ends."""

from __future__ import annotations

import os
import socket
from io import TextIOWrapper
from pathlib import Path

from layerserve_server.disk import try_lock

OWNER_LOCK = "owner.lock"


class FolderOwner:
    """The ownership of a folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / OWNER_LOCK
        self._file: TextIOWrapper | None = None

    def acquire(self) -> bool:
        """Makes this server the owner. Returns False if another server is. Raises OSError."""
        file = try_lock(self._path)
        if file is None:
            return False
        file.truncate(0)
        file.write(f"host {socket.gethostname()}, process {os.getpid()}")
        file.flush()
        self._file = file
        return True

    @property
    def held(self) -> bool:
        """Whether this server is the owner."""
        return self._file is not None

    @property
    def name(self) -> str:
        """The server that owns the folder, or owned it last: "host NAME, process ID", or "unknown"."""
        try:
            return self._path.read_text() or "unknown"
        except OSError:
            return "unknown"

    def release(self) -> None:
        """Releases the ownership, if this server has it."""
        if self._file is not None:
            self._file.close()
            self._file = None
