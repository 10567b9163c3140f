"""A file that runs read where it lies: a data file of the server, or the file of a dataset.

It is opened part by part with O_NOFOLLOW from its folder on, so neither a symbolic link nor a concurrent rename leads
out of it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import BinaryIO

from layerserve.values.table_files.formats import FORMATS

from layerserve_server.disk import STATE_FOLDER
from layerserve_server.errors import ForbiddenPathError, InvalidRequestError, NotTrainableError

#: Suffixes of data files.
SUFFIXES = (".npy", ".npz", *FORMATS)


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file below a folder, which is the data root or, with the id of a `dataset`, that of all datasets.

    `stamp` is its size in bytes and mtime in nanoseconds when it was described; a file with another one isn't opened.
    """

    folder: str
    path: str
    dataset: str = ""
    stamp: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """The file in error texts."""
        return f"dataset '{self.dataset}'" if self.dataset else f"data file '{self.path}'"

    @property
    def suffix(self) -> str:
        """The suffix of its name, which is its format."""
        return PurePath(self.path).suffix

    @property
    def is_table(self) -> bool:
        """Whether it has columns, rather than NumPy's arrays."""
        return self.suffix in FORMATS

    def check(self) -> None:
        """Checks the path without opening it.

        Raises NotTrainableError if the server has no data root, ForbiddenPathError if the path leads out of it, and
        InvalidRequestError if the format isn't supported.
        """
        if not self.folder:
            raise NotTrainableError(f"{self.label}: this server reads no data files; it has no data root (--data-root)")
        # The folder of models may be below the data root, and with it the state folder, which has other callers' data.
        if any(part in ("", ".", "..", STATE_FOLDER) for part in self.path.split("/")) or "\0" in self.path:
            raise ForbiddenPathError(f"{self.label}: expected a path below the data root, without '..'")
        if self.suffix not in SUFFIXES:
            raise InvalidRequestError(f"{self.label}: got {self.suffix or 'no suffix'}, expected {', '.join(SUFFIXES)}")

    def stamped(self, file: BinaryIO) -> DataFile:
        """Returns it with the stamp of the opened file."""
        state = os.fstat(file.fileno())
        return replace(self, stamp=(state.st_size, state.st_mtime_ns))

    @contextlib.contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Opens the file. Raises as `check` does, and InvalidRequestError if it doesn't exist or has another stamp."""
        self.check()
        parts = self.path.split("/")
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parts[:-1]:
                inner = self._step(part, folder, os.O_DIRECTORY)
                os.close(folder)
                folder = inner
            # Non-blocking: opening a named pipe would wait for a writer.
            handle = self._step(parts[-1], folder, os.O_NONBLOCK)
        finally:
            os.close(folder)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise InvalidRequestError(f"{self.label}: expected a regular file")
            if self.stamp and self.stamped(file) != self:
                raise InvalidRequestError(f"{self.label} has changed since the run was accepted")
            yield file

    def _step(self, part: str, folder: int, flags: int) -> int:
        try:
            return os.open(part, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                if stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
                    raise ForbiddenPathError(f"{self.label}: '{part}' is a symbolic link") from error
            raise InvalidRequestError(f"{self.label}: {error.strerror}") from error
