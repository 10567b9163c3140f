"""Files on disk: their digests, replacing and flushing them, locks, and the JSON in them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

#: Name of the state folder, which is beside the models unless the settings name another one.
STATE_FOLDER = ".layerserve"

_CHUNK = 1 << 20


def sha256(path: Path) -> str:
    """Returns the SHA-256 digest of a file, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Flushes a file or folder to disk (fsync). Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, content: str | bytes, *, flushed: bool = False) -> None:
    """Writes a small file, atomically: others see its former content or this one; `flushed`, after a power failure too.

    Raises OSError, and then leaves the file unchanged. A kill may leave a hidden file, which the next writer takes.
    """
    unfinished = path.with_name(f".{path.name}.new")
    with _taken(unfinished) as handle:
        try:
            with os.fdopen(os.dup(handle), "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
            if flushed:
                sync(unfinished)
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    if flushed:
        sync(path.parent)


@contextmanager
def _taken(path: Path) -> Iterator[int]:
    """Makes an empty file, or empties it, that no other writer has meanwhile. Yields it. Raises OSError."""
    while True:
        _remove_unless_own(path)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except PermissionError:
            if not path.exists():
                raise
            # Of an earlier start as root, for example.
            path.unlink(missing_ok=True)
            continue
        try:
            # Without locks, as some file systems are, two writers at a time aren't kept apart.
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            # Another writer may have renamed it, or removed it, meanwhile.
            if _is_at(handle, path):
                os.ftruncate(handle, 0)
                yield handle
                return
        finally:
            os.close(handle)


def _remove_unless_own(path: Path) -> None:
    """Removes what isn't a file with one name: emptying a file with a second one empties somebody else's."""
    with suppress(FileNotFoundError):
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode):
            shutil.rmtree(path)
        elif not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            path.unlink()


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def json_object(text: str | bytes) -> dict[str, Any]:
    """Parses a JSON object of a file that this server wrote. Raises ValueError for anything else, as damage leaves."""
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError("got JSON that is nested too deep, expected an object") from None
    if not isinstance(values, dict):
        raise ValueError(f"got JSON of type {type(values).__name__}, expected an object")
    return values


def open_lock(path: Path) -> TextIOWrapper:
    """Opens the file of a lock for appending; makes it if needed. Raises OSError, also for a symbolic link.

    It isn't emptied: it may have the text of who holds the lock. What a link leads to isn't the server's.
    """
    return os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644), "a")


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[TextIOWrapper]:
    """Holds a lock, alone or `shared` with others, which the system frees if the process dies. Yields the open file.

    Raises OSError if the file can't be written.
    """
    with open_lock(path) as file:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield file


def take_lock(file: TextIOWrapper, kind: int) -> bool:
    """Takes a lock of a file that `open_lock` has opened, without waiting. Returns False if another process holds it.

    Raises OSError if the file system has no locks.
    """
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def try_lock(path: Path) -> TextIOWrapper | None:
    """Takes a lock, which is held until the returned file is closed; None if it is held. Raises OSError."""
    file = open_lock(path)
    try:
        if take_lock(file, fcntl.LOCK_EX):
            return file
    except OSError as error:
        file.close()
        raise OSError(error.errno, error.strerror, str(path)) from error
    file.close()
    return None


def is_locked(path: Path, *, shared: bool = False) -> bool:
    """Whether a process holds a lock, alone or `shared`. False if there is no file, or the file system has no locks."""
    try:
        with path.open() as file:
            # Two that look at the same time mustn't find each other.
            fcntl.flock(file, (fcntl.LOCK_EX if shared else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
