"""The audit log: a JSON line for each call that changes the repository, on disk before the call is answered."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

logger = logging.getLogger(__name__)

#: File in the state folder; earlier ones are FILE.1 (the newest) to FILE.9.
FILE: Final = "audit.jsonl"
KEPT: Final = 9
#: Size at which a new file is begun, in bytes.
MAX_BYTES: Final = 16 * 1024 * 1024


class AuditLog:
    """Appends records to the audit log. Threads and processes may share it."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = folder / FILE
        self._max_bytes = max_bytes

    def check_writable(self) -> None:
        """Raises OSError if no record could be written."""
        with self._opened():
            pass

    def write(self, **record: Any) -> None:
        """Appends a record with the current time, and flushes it to disk. Raises OSError."""
        moment = time.time()
        written = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment % 1 * 1000):03}Z"
        line = json.dumps({"time": written, **record}, ensure_ascii=True).encode() + b"\n"
        with self._opened() as handle:
            if os.fstat(handle).st_size + len(line) <= self._max_bytes:
                _append(handle, line)
                return
            self._rotate()
            # Without another lock: no other process opens the new file before the old one is unlocked.
            fresh = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                _append(fresh, line)
            finally:
                os.close(fresh)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Opens the file, which no other process writes to or rotates within the block."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                with contextlib.suppress(OSError):  # a filesystem without locks
                    fcntl.flock(handle, fcntl.LOCK_EX)
                if _is_file(handle, self._path):
                    yield handle
                    return
            finally:
                os.close(handle)

    def _rotate(self) -> None:
        for number in range(KEPT, 0, -1):
            source = self._numbered(number - 1)
            with contextlib.suppress(FileNotFoundError):
                os.replace(source, self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{FILE}.{number}") if number else self._path


def _append(handle: int, line: bytes) -> None:
    size = os.fstat(handle).st_size
    if size and os.pread(handle, 1, size - 1) != b"\n":
        line = b"\n" + line  # after a line that a crash cut off
    while line:
        line = line[os.write(handle, line) :]
    os.fsync(handle)


def _is_file(handle: int, path: Path) -> bool:
    """Whether an open file is still the one at its path, and wasn't rotated meanwhile."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
