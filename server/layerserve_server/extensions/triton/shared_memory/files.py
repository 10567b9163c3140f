"""Files of /dev/shm: opened for each request, since their owners change them as they like."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from layerserve_server.errors import InvalidRequestError

#: Where shm_open(3) has its objects.
FOLDER = Path("/dev/shm")
#: The name of an object: one file there, and no folder.
_NAME = re.compile(r"(?!\.{1,2}\Z)[^/\0]{1,255}", re.S)
#: Never waits for the other end of a pipe, and never becomes the terminal of the server.
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Which file it is, whatever its name is later."""

    device: int
    number: int
    #: The user of the operating system whom it belongs to. A number is given to another file when this one is deleted.
    user: int

    @classmethod
    def of(cls, state: os.stat_result) -> FileIdentity:
        """Returns which file has a status."""
        return cls(state.st_dev, state.st_ino, state.st_uid)


class UnusableFileError(InvalidRequestError):
    """There is no such file, or it isn't one that a request may use. The text says what is wrong with it."""


def file_name(key: str) -> str | None:
    """Returns the name of the file of a key, which may begin with slashes as in shm_open; None if it is none."""
    name = key.lstrip("/")
    return name if _NAME.fullmatch(name) and len(os.fsencode(name)) <= 255 else None


def identify(name: str, user: int, end: int) -> FileIdentity:
    """Returns which file has a name. Raises UnusableFileError unless it has `end` bytes and belongs to a user."""
    with _opened(name, os.O_RDONLY) as (_, found):
        if found.st_uid != user:
            raise UnusableFileError("the file belongs to another user than the one who runs the client")
        if found.st_size < end:
            raise UnusableFileError(f"the file has {found.st_size} bytes, expected at least {end}")
        return FileIdentity.of(found)


def exists(name: str, file: FileIdentity) -> bool:
    """Whether a file still has its name."""
    try:
        found = os.lstat(FOLDER / name)
    except OSError:
        return False
    return FileIdentity.of(found) == file


def read(name: str, file: FileIdentity, offset: int, size: int) -> bytes:
    """Returns bytes of a file. Raises UnusableFileError if it was replaced, or has fewer."""
    with _reopened(name, file, os.O_RDONLY, offset + size) as opened:
        pieces = []
        while size:
            # A single call returns at most 2 GiB.
            piece = os.pread(opened, size, offset)
            if not piece:
                raise UnusableFileError("the file was truncated while it was read")
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
    return b"".join(pieces)


def write(name: str, file: FileIdentity, offset: int, content: memoryview) -> None:
    """Writes bytes into a file. Raises UnusableFileError if it was replaced, ends before, or can't be written."""
    with _reopened(name, file, os.O_WRONLY, offset + len(content)) as opened:
        while content:
            written = os.pwrite(opened, content, offset)
            offset, content = offset + written, content[written:]


@contextmanager
def _reopened(name: str, file: FileIdentity, flags: int, end: int) -> Iterator[int]:
    with _opened(name, flags) as (opened, found):
        if FileIdentity.of(found) != file:
            raise UnusableFileError("the file was replaced; register it again")
        if found.st_size < end:
            raise UnusableFileError(f"the file has {found.st_size} bytes now, expected at least {end}")
        yield opened


@contextmanager
def _opened(name: str, flags: int) -> Iterator[tuple[int, os.stat_result]]:
    """Opens a regular file, and gives its status. Raises UnusableFileError, also for what happens meanwhile."""
    try:
        opened = os.open(FOLDER / name, flags | _FLAGS)
        try:
            found = os.fstat(opened)
            if not stat.S_ISREG(found.st_mode):
                raise UnusableFileError("it isn't a regular file")
            yield opened, found
        finally:
            os.close(opened)
    except OSError as error:
        raise UnusableFileError(f"the file can't be used: {error.strerror}") from error
