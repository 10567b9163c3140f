"""Ownership of a folder by one process: a lock in it, which the system frees when the process ends."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Final

from layerserve_server.disk import try_lock

OWNER_LOCK: Final = "owner.lock"
#: Names of folders in which something is made, or which are removed.
UNFINISHED: Final = re.compile(r"\.unfinished-[0-9a-f]{16}")


class FolderOwner:
    """The ownership of a folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / OWNER_LOCK
        self._file: TextIOWrapper | None = None

    def acquire(self) -> bool:
        """Makes this process the owner. Returns False if another is, or the folder is gone. Raises OSError."""
        file = try_lock(self._path)
        if file is None:
            return False
        try:
            if not os.path.samestat(os.fstat(file.fileno()), os.stat(self._path)):
                raise FileNotFoundError
            file.truncate(0)
            file.write(f"host {socket.gethostname()}, process {os.getpid()}")
            file.flush()
        except FileNotFoundError:
            # Its owner has removed it meanwhile.
            file.close()
            return False
        except OSError:
            file.close()
            raise
        self._file = file
        return True

    @property
    def held(self) -> bool:
        """Whether this process is the owner."""
        return self._file is not None

    @property
    def name(self) -> str:
        """The process that owns the folder, or owned it last: "host NAME, process ID", or "unknown"."""
        try:
            return self._path.read_text() or "unknown"
        except OSError:
            return "unknown"

    def release(self) -> None:
        """Releases the ownership, if this process has it."""
        if self._file is not None:
            self._file.close()
            self._file = None


class UnfinishedFolder:
    """A new folder to make something in, which its maker moves to its place by a rename. `remove` ends it.

    Where others look, it is hidden. `sweep` knows by the owner's lock that it is in use, without clocks or process ids.
    """

    def __init__(self, parent: Path) -> None:
        """Makes the folder, and those above it. Raises OSError."""
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            self._around = parent / f".unfinished-{secrets.token_hex(8)}"
            self._around.mkdir()
            self._owner = FolderOwner(self._around)
            try:
                if self._owner.acquire():
                    break
            except FileNotFoundError:
                # Removed by a sweep that came before the lock.
                continue
            except OSError:
                if not self._around.is_dir():
                    raise
                # The file system has no locks: then no sweep removes it, either.
                break
        #: The folder itself.
        self.path = self._around / "new"
        try:
            self.path.mkdir()
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Removes what is left of it."""
        shutil.rmtree(self._around, ignore_errors=True)
        self._owner.release()


@contextlib.contextmanager
def unfinished(parent: Path) -> Iterator[Path]:
    """Gives a new `UnfinishedFolder`, which is removed at the end unless it has been moved. Raises OSError."""
    folder = UnfinishedFolder(parent)
    try:
        yield folder.path
    finally:
        folder.remove()


def remove_folder(path: Path) -> None:
    """Removes a folder, as far as it can be. In place of what a link leads to, it removes the link.

    It is hidden first, so that nobody reads half of it: the process may be killed meanwhile. `sweep` removes the rest.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.is_symlink():
            path.unlink()
            return
        hidden = path.with_name(f".unfinished-{secrets.token_hex(8)}")
        with contextlib.suppress(PermissionError):
            path = path.rename(hidden)
        shutil.rmtree(path, ignore_errors=True)


def sweep(parent: Path) -> list[Path]:
    """Removes what processes that have ended were making or removing, and returns it. Other folders and links stay."""
    removed = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(parent):
            if UNFINISHED.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                owner = FolderOwner(Path(entry.path))
                with contextlib.suppress(OSError):
                    if owner.acquire():
                        shutil.rmtree(entry.path, ignore_errors=True)
                        owner.release()
                        removed.append(Path(entry.path))
    return removed
