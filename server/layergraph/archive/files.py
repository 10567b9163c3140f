"""Opens files, and reads parts of them."""

from __future__ import annotations

import errno
import io
import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from layergraph.errors import CorruptFileError, UnsafeFileError


def open_regular(path: Path) -> FileWindow:
    """Opens a regular file for reading. A FIFO, device or folder is rejected without blocking.

    Raises UnsafeFileError for anything but a regular file, CorruptFileError if it can't be opened.
    """
    try:
        # Checked before opening, because opening some devices has effects, and after, as the file may have changed.
        _require_regular(path, path.stat())
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as wrong:
        raise CorruptFileError(path, f"can't be opened: {reason(wrong)}") from wrong
    try:
        status = os.fstat(descriptor)
        _require_regular(path, status)
    except BaseException:
        os.close(descriptor)
        raise
    return FileWindow(descriptor, 0, status.st_size, owns=True)


def open_own(path: Path, resources: ExitStack) -> FileWindow:
    """Opens a file that belongs to a model, until `resources` close. Raises UnsafeFileError for links, too."""
    if path.is_symlink():
        raise UnsafeFileError(path, "is a link, expected a regular file")
    file = open_regular(path)
    resources.callback(file.close)
    return file


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFileError(path, "isn't a regular file")


def reason(wrong: Exception) -> str:
    """Why a path can't be opened."""
    return (wrong.strerror or "unreadable") if isinstance(wrong, OSError) else "invalid path"


class FileWindow(io.RawIOBase):
    """A part of an open file as a read-only file, without a copy. HDF5 and zipfile read from it."""

    def __init__(self, descriptor: int, start: int, length: int, *, owns: bool = False) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.start = start
        self.length = length
        #: Maximum number of bytes of one read; None means no limit. Bounds zipfile's read of a central directory.
        self.largest_read: int | None = None
        self._owns = owns
        self._position = 0

    def window(self, start: int, length: int) -> FileWindow:
        """Returns a part of this part. It must not outlive the file."""
        return FileWindow(self.descriptor, self.start + start, length)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.length}[whence]
        if origin + offset < 0:
            raise OSError(errno.EINVAL, "seek before the start")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), max(0, self.length - self._position))
        done = 0
        while done < wanted:
            got = os.preadv(self.descriptor, [view[done:wanted]], self.start + self._position + done)
            if got == 0:
                break
            done += got
        self._position += done
        return done

    def read(self, size: int | None = -1) -> bytes:
        size = self.length if size is None or size < 0 else size
        size = min(size, max(0, self.length - self._position))
        if self.largest_read is not None and size > self.largest_read:
            raise OversizedReadError(size)
        data = bytearray(size)
        return bytes(memoryview(data)[: self.readinto(data)])

    def read_at(self, start: int, size: int) -> bytes:
        """Reads up to `size` bytes from `start`."""
        self.seek(start)
        return self.read(size)

    def close(self) -> None:
        if self._owns and not self.closed:
            os.close(self.descriptor)
        super().close()


class OversizedReadError(Exception):
    """A read exceeds `FileWindow.largest_read`."""
