"""A file that runs read where it lies: a data file of the server, or the file of a dataset; or a folder of them.

On disk, it is opened part by part with O_NOFOLLOW from its folder on, so neither a symbolic link nor a concurrent
rename leads out of it. In a store, the parts of its path are names only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import BinaryIO

from layerserve.values.table_files.formats import FORMATS, is_hidden

from layerserve_server.datasets import data_store
from layerserve_server.disk import STATE_FOLDER
from layerserve_server.errors import ForbiddenPathError, InvalidRequestError, NotTrainableError

#: Suffixes of data files.
SUFFIXES = (".npy", ".npz", *FORMATS)
#: The one of files that are read by row groups, also in folders and stores.
PARQUET = ".parquet"


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file below a folder, which is the data root or, with the id of a `dataset`, that of all datasets.

    The data root may be the address of a store. A path with '/' at its end is a folder of Parquet files.

    `stamp` is the size in bytes and the mtime in nanoseconds, or in a store a number for the version, when the file was
    described. A file with another one isn't opened.
    """

    folder: str
    path: str
    dataset: str = ""
    stamp: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """The file in error texts."""
        if self.dataset:
            return f"dataset '{self.dataset}'"
        return f"data {'folder' if self.is_folder else 'file'} '{self.path}'"

    @property
    def suffix(self) -> str:
        """The suffix of its name, which is its format."""
        return PurePath(self.path).suffix

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of files."""
        return self.path.endswith("/")

    @property
    def is_parquet(self) -> bool:
        """Whether it is read by row groups."""
        return self.is_folder or self.suffix == PARQUET

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
        parts = self.path.removesuffix("/").split("/")
        if any(part in ("", ".", "..", STATE_FOLDER) for part in parts) or "\0" in self.path:
            raise ForbiddenPathError(f"{self.label}: expected a path below the data root, without '..'")
        if self.is_parquet:
            return
        if self.suffix not in SUFFIXES:
            raise InvalidRequestError(
                f"{self.label}: got {self.suffix or 'no suffix'}, expected {', '.join(SUFFIXES)}, or '/' at the end of "
                f"a folder of {PARQUET} files"
            )
        if self.in_store:
            raise InvalidRequestError(f"{self.label}: got {self.suffix} in a store, expected {PARQUET}")

    @property
    def in_store(self) -> bool:
        """Whether it is in a store rather than on disk."""
        return data_store.is_address(self.folder)

    def parts(self) -> tuple[DataFile, list[DataFile]]:
        """Returns the folder with its stamp, and its Parquet files with theirs, in the order of their paths.

        Those that `is_hidden` are left out. Raises as `opened` does.
        """
        self.check()
        found = data_store.listed(self.folder, self.path, self.label) if self.in_store else dict(self._listed())
        if not found:
            raise InvalidRequestError(f"{self.label}: got no {PARQUET} file in it, expected 1 or more")
        files = [replace(self, path=self.path + path, stamp=stamp) for path, stamp in sorted(found.items())]
        digest = hashlib.sha256(repr([(file.path, file.stamp) for file in files]).encode()).digest()
        # JSON's numbers are exact up to 2^53 in all languages.
        stamp = (len(files), sum(file.stamp[0] for file in files), int.from_bytes(digest[:6], "big"))
        if self.stamp and self.stamp != stamp:
            raise self._changed()
        return replace(self, stamp=stamp), files

    def _listed(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yields the paths and stamps of the Parquet files in a folder on disk."""
        folder = self._folder_of(f"{self.path}.".split("/"))
        try:
            for path, folders, names, handle in os.fwalk(".", dir_fd=folder):
                folders[:] = [name for name in folders if not is_hidden(name)]
                for name in names:
                    if not name.endswith(PARQUET) or is_hidden(name):
                        continue
                    where = os.path.normpath(os.path.join(path, name))
                    state = os.stat(name, dir_fd=handle, follow_symlinks=False)
                    if stat.S_ISLNK(state.st_mode):
                        raise ForbiddenPathError(f"{self.label}: '{where}' is a symbolic link")
                    yield where, (state.st_size, state.st_mtime_ns)
        except OSError as error:
            raise InvalidRequestError(f"{self.label}: {error.strerror}") from error
        finally:
            os.close(folder)

    def check_unchanged(self, file: BinaryIO) -> None:
        """Raises InvalidRequestError if the opened file has another stamp."""
        if self.stamp and self.stamped(file) != self:
            raise self._changed()

    def _changed(self) -> InvalidRequestError:
        return InvalidRequestError(f"{self.label} has changed since the run was accepted")

    def stamped(self, file: BinaryIO) -> DataFile:
        """Returns it with the stamp of the opened file."""
        if self.in_store:
            return replace(self, stamp=data_store.stamp(self.folder, self.path, self.label))
        state = os.fstat(file.fileno())
        return replace(self, stamp=(state.st_size, state.st_mtime_ns))

    @contextlib.contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Opens the file. Raises as `check` does, and InvalidRequestError if it doesn't exist or has another stamp.

        In a store, raises as `data_store.opened` does.
        """
        self.check()
        if self.in_store:
            with data_store.opened(self.folder, self.path, self.label) as file:
                self.check_unchanged(file)
                yield file
            return
        parts = self.path.split("/")
        folder = self._folder_of(parts)
        try:
            # Non-blocking: opening a named pipe would wait for a writer.
            handle = self._step(parts[-1], folder, os.O_NONBLOCK)
        finally:
            os.close(folder)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise InvalidRequestError(f"{self.label}: expected a regular file; name a folder with '/' at its end")
        with os.fdopen(handle, "rb") as file:
            self.check_unchanged(file)
            yield file

    def _folder_of(self, parts: Sequence[str]) -> int:
        """Opens the folder that has the last one of the parts of a path."""
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        for part in parts[:-1]:
            try:
                inner = self._step(part, folder, os.O_DIRECTORY)
            finally:
                os.close(folder)
            folder = inner
        return folder

    def _step(self, part: str, folder: int, flags: int) -> int:
        try:
            return os.open(part, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                if stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
                    raise ForbiddenPathError(f"{self.label}: '{part}' is a symbolic link") from error
            raise InvalidRequestError(f"{self.label}: {error.strerror}") from error
