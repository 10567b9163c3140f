"""Folders that are made once, and found again by a key.

```
locks/NN       held while a folder is made or read; other processes of the server wait, and read what it has made
KEY/           what was made; with the digests of its files, if it has few
```
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Final

from layerserve_server import folder_owner, wall_clock
from layerserve_server.artifacts import flushing
from layerserve_server.artifacts.flushing import Flusher
from layerserve_server.disk import json_object, open_lock, sha256, take_lock
from layerserve_server.errors import CallCancelledError
from layerserve_server.folder_owner import unfinished
from layerserve_server.jobs.channel import never
from layerserve_server.wall_clock import JUMP_SECONDS

logger = logging.getLogger(__name__)

#: Name of the file with the digests of the others.
DIGESTS: Final = "digests.json"
#: A key: a digest, with a size before it or not. Other names are never removed: the folder may be a link to one that
#: has more in it.
KEY: Final = re.compile(r"([0-9]+-)?[0-9a-f]{64}")
#: Default time after which a folder that isn't used is removed, in seconds.
UNUSED_SECONDS: Final = 30 * 86400.0
#: Time between two tries to get a lock, in seconds.
TRY_SECONDS: Final = 0.05


class Artifacts:
    """Folders below one folder, which processes may share. Thread-safe."""

    def __init__(
        self,
        folder: Path,
        files: Sequence[str] | None,
        *,
        max_bytes: int = sys.maxsize,
        unused_seconds: float = UNUSED_SECONDS,
    ) -> None:
        """
        files            names of the files that are kept, with their digests, and others are removed; None for all,
                         which are flushed to disk instead, as reading them would take as long as making them
        max_bytes        maximum size of all folders; beyond it, the one that was used the longest ago is removed
        unused_seconds   time after which a folder that isn't used is removed
        """
        self.folder = folder
        self._files = None if files is None else frozenset(files)
        self._max_bytes = max_bytes
        self._unused_seconds = unused_seconds
        self._flusher = Flusher()

    def path(self, key: str) -> Path:
        """The folder of a key, whether it exists or not."""
        return self.folder / key

    def is_whole(self, key: str) -> bool:
        """Whether the folder of a key has been made, and isn't damaged."""
        folder = self.folder / key
        if self._files is None:
            return flushing.is_undamaged(folder)
        try:
            digests = json_object((folder / DIGESTS).read_bytes())
            return bool(digests) and all(
                name in self._files and sha256(folder / name) == digest for name, digest in digests.items()
            )
        except (OSError, ValueError, TypeError):
            return False

    @contextmanager
    def made(self, key: str, make: Callable[[Path], None], stopped: Callable[[], bool] = never) -> Iterator[Path]:
        """Gives the folder of a key, which `make` fills unless it is kept. If it can't be kept, gives a temporary one.

        Raises CallCancelledError if `stopped` returns True while another process holds the folder, and as `make` does.
        """
        with ExitStack() as held:
            folder = self.folder / key
            try:
                held.enter_context(self.locked(key, fcntl.LOCK_EX, stopped))
                if not self.is_whole(key):
                    with self.making() as new:
                        make(new)
                        self.put(new, key)
                    self.sweep()
                os.utime(folder)
            except OSError as error:
                logger.warning("can't keep graphs in %s: %s", self.folder, error.strerror or error)
                folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="layerserve-graphs-")))
                make(folder)
            yield folder

    @contextmanager
    def found(self, key: str) -> Iterator[Path | None]:
        """Gives the folder of a key, or None if there is none, or another process is making it."""
        with ExitStack() as held:
            folder = self.folder / key
            try:
                if not folder.is_dir():
                    raise FileNotFoundError
                # Several processes may read it.
                held.enter_context(self.locked(key, fcntl.LOCK_SH, lambda: True))
                if not self.is_whole(key):
                    raise FileNotFoundError
                os.utime(folder)
            except (OSError, CallCancelledError):
                yield None
            else:
                yield folder

    @contextmanager
    def locked(self, key: str, kind: int = fcntl.LOCK_EX, stopped: Callable[[], bool] = never) -> Iterator[None]:
        """Holds the lock of a key, alone by default, while it is made or read. Raises OSError."""
        (self.folder / "locks").mkdir(parents=True, exist_ok=True)
        with self._lock(key) as file:
            while not take_lock(file, kind):
                if stopped():
                    raise CallCancelledError("waiting for another process was stopped")
                time.sleep(TRY_SECONDS)
            yield

    def _lock(self, key: str) -> TextIOWrapper:
        # Few files: one for each folder would stay for ever.
        return open_lock(self.folder / "locks" / key.rpartition("-")[2][:2])

    def making(self) -> AbstractContextManager[Path]:
        """Gives a folder to make something in, which is removed unless it is `put` to its key. Raises OSError."""
        return unfinished(self.folder)

    def put(self, new: Path, key: str) -> Path:
        """Gives a folder that is made its key, and returns its path. Raises OSError.

        If the same was made meanwhile, that stays.
        """
        folder = self.folder / key
        if self._files is None:
            flushing.mark(new)
        else:
            (new / DIGESTS).write_text(json.dumps(_digests(new, self._files)))
        if not self.is_whole(key):
            shutil.rmtree(folder, ignore_errors=True)
        try:
            new.rename(folder)
        except OSError:
            if not self.is_whole(key):
                raise
        if self._files is None:
            self._flusher.add(folder)
        return folder

    def sweep(self, used: Collection[str] = ()) -> None:
        """Removes folders that weren't used for long, and the oldest if all are too large. The newest stays.

        So do those of the keys `used`. Raises OSError.
        """
        folder_owner.sweep(self.folder)
        now, sure, left = time.time(), wall_clock.is_sure(), self._max_bytes
        entries = []
        for entry in self.folder.iterdir():
            if entry.name in used or not KEY.fullmatch(entry.name):
                continue
            with suppress(OSError):
                size = sum(file.stat().st_size for file in entry.iterdir())
                age = now - entry.stat().st_mtime
                if age < -JUMP_SECONDS:
                    # Written when the clock was wrong: it would stay the newest until then.
                    os.utime(entry)
                entries.append((max(0.0, age), size, entry))
        for age, size, entry in sorted(entries, key=lambda one: one[0]):
            left -= size
            if (left < 0 and left + size != self._max_bytes) or (sure and age > self._unused_seconds):
                self._remove(entry)

    def _remove(self, entry: Path) -> None:
        # Another process may be reading it.
        with suppress(OSError), self._lock(entry.name) as file:
            if take_lock(file, fcntl.LOCK_EX):
                shutil.rmtree(entry, ignore_errors=True)


def _digests(folder: Path, names: Collection[str]) -> dict[str, str]:
    """Returns the digests of the files with these names. Removes all others."""
    digests = {}
    for file in folder.iterdir():
        if file.name in names and file.is_file() and not file.is_symlink():
            digests[file.name] = sha256(file)
        else:
            shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
    return digests
