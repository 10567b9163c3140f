"""Folders of files that are made once, and found again by a key.

```
locks/NN       held while a folder is made or read; other processes of the server wait, and read what it has made
KEY/           files, and their digests
```
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from layerserve_server.disk import json_object, open_lock, sha256
from layerserve_server.errors import CallCancelledError
from layerserve_server.jobs.channel import never

logger = logging.getLogger(__name__)

#: Name of the file with the digests of the others.
DIGESTS: Final = "digests.json"
#: A key, and the beginning of the names of folders in which one is made. Others are never removed: the folder may be a
#: link to one that has more in it.
KEY: Final = re.compile(r"[0-9a-f]{64}")
MAKING: Final = ".making-"
#: Time after which a folder that isn't used is removed, in seconds.
UNUSED_SECONDS: Final = 30 * 86400.0
#: Time between two tries to get a lock, in seconds.
TRY_SECONDS: Final = 0.05


class KeptFolders:
    """Folders below one folder, which processes may share. Thread-safe."""

    def __init__(self, folder: Path, files: Sequence[str], *, max_bytes: int, making_seconds: float) -> None:
        """
        files            names of the files that are kept; others are removed once a folder is made
        max_bytes        maximum size of all folders; beyond it, the one that was used the longest ago is removed
        making_seconds   maximum time for making one; half made folders that are older are removed
        """
        self._folder = folder
        self._files = frozenset(files)
        self._max_bytes = max_bytes
        self._making_seconds = making_seconds

    @contextmanager
    def made(self, key: str, make: Callable[[Path], None], stopped: Callable[[], bool] = never) -> Iterator[Path]:
        """Gives the folder of a key, which `make` fills unless it is kept. If it can't be kept, gives a temporary one.

        Raises CallCancelledError if `stopped` returns True while another process holds the folder, and as `make` does.
        """
        with ExitStack() as held:
            folder = self._folder / key
            try:
                held.enter_context(self._locked(key, fcntl.LOCK_EX, stopped))
                if not self._is_whole(folder):
                    self._make(key, make)
                    self._remove_unused()
                os.utime(folder)
            except OSError as error:
                logger.warning("can't keep graphs in %s: %s", self._folder, error.strerror or error)
                folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="layerserve-graphs-")))
                make(folder)
            yield folder

    @contextmanager
    def found(self, key: str) -> Iterator[Path | None]:
        """Gives the folder of a key, or None if there is none, or another process is making it."""
        with ExitStack() as held:
            folder = self._folder / key
            try:
                if not folder.is_dir():
                    raise FileNotFoundError
                # Several processes may read it.
                held.enter_context(self._locked(key, fcntl.LOCK_SH, lambda: True))
                if not self._is_whole(folder):
                    raise FileNotFoundError
                os.utime(folder)
            except (OSError, CallCancelledError):
                yield None
            else:
                yield folder

    @contextmanager
    def _locked(self, key: str, kind: int, stopped: Callable[[], bool]) -> Iterator[None]:
        (self._folder / "locks").mkdir(parents=True, exist_ok=True)
        with self._lock(key) as file:
            while not _try(file, kind):
                if stopped():
                    raise CallCancelledError("waiting for another process was stopped")
                time.sleep(TRY_SECONDS)
            yield

    def _lock(self, key: str) -> IO[str]:
        # Few files: one for each folder would stay for ever.
        return open_lock(self._folder / "locks" / key[:2])

    def _make(self, key: str, make: Callable[[Path], None]) -> None:
        unfinished = Path(tempfile.mkdtemp(prefix=MAKING, dir=self._folder))
        try:
            make(unfinished)
            digests = {}
            for file in unfinished.iterdir():
                if file.name in self._files and file.is_file() and not file.is_symlink():
                    digests[file.name] = sha256(file)
                else:
                    shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
            (unfinished / DIGESTS).write_text(json.dumps(digests))
            shutil.rmtree(self._folder / key, ignore_errors=True)
            unfinished.rename(self._folder / key)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _is_whole(self, folder: Path) -> bool:
        """Whether a folder holds files that are as they were written."""
        try:
            digests = json_object((folder / DIGESTS).read_bytes())
            return bool(digests) and all(
                name in self._files and sha256(folder / name) == digest for name, digest in digests.items()
            )
        except (OSError, ValueError, TypeError):
            return False

    def _remove_unused(self) -> None:
        """Removes folders that weren't used for long, and the oldest if all are too large. The newest stays."""
        now, left = time.time(), self._max_bytes
        entries = []
        for entry in self._folder.iterdir():
            if not (KEY.fullmatch(entry.name) or entry.name.startswith(MAKING)):
                continue
            with suppress(OSError):
                size = sum(file.stat().st_size for file in entry.iterdir())
                entries.append((now - entry.stat().st_mtime, size, entry))
        for age, size, entry in sorted(entries, key=lambda one: one[0]):
            if entry.name.startswith(MAKING):
                # Of a process that has died.
                if age > 2 * self._making_seconds:
                    shutil.rmtree(entry, ignore_errors=True)
                continue
            left -= size
            if (left < 0 and left + size != self._max_bytes) or age > UNUSED_SECONDS:
                self._remove(entry)

    def _remove(self, entry: Path) -> None:
        # Another process may be reading it.
        with suppress(OSError), self._lock(entry.name) as file:
            if _try(file, fcntl.LOCK_EX):
                shutil.rmtree(entry, ignore_errors=True)


def _try(file: IO[str], kind: int) -> bool:
    """Whether the lock could be taken. Raises OSError if the file system has no locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
