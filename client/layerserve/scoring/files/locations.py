"""Files and folders, local or in a store that fsspec knows, such as `s3://bucket/rows`."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from layerserve.errors import InvalidArgument

#: What the names of files begin with that aren't complete yet. Readers of folders leave such files out.
TEMPORARY = ".tmp-"
#: What says which content a file of a store has, by the stores' names for it, in the order in which it is asked for.
_VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "generation",
    "LastModified",
    "last_modified",
    "mtime",
    "modified",
)


@dataclass(frozen=True, slots=True)
class Location:
    """A path of this machine, or a URL."""

    url: str

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine."""
        return "://" not in self.url

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The end of the name, such as ".parquet"."""
        return os.path.splitext(self.name)[1].lower()

    @property
    def parent(self) -> Location:
        """The folder that it is in."""
        return Location(self.url.rpartition("/")[0] or "/")

    def child(self, name: str) -> Location:
        """Returns a file in this folder."""
        return Location(f"{self.url.rstrip('/')}/{name}")

    def temporary(self) -> Location:
        """Returns a new name in the same folder."""
        return self.parent.child(f"{TEMPORARY}{secrets.token_hex(6)}-{self.name}")

    def exists(self) -> bool:
        """Whether there is such a file or folder."""
        files, path = self._files()
        return bool(files.exists(path))

    def is_folder(self) -> bool:
        """Whether it is a folder."""
        files, path = self._files()
        return bool(files.isdir(path))

    def size(self) -> int | None:
        """Returns the size of a file, in bytes; None if there is none."""
        files, path = self._files()
        try:
            return int(files.size(path))
        except FileNotFoundError:
            return None

    def content_version(self) -> tuple[int, str]:
        """Returns the size of a file, in bytes, and what changes with its content: a time, or what a store has."""
        if self.is_local:
            found = os.stat(self.url)
            return found.st_size, str(found.st_mtime_ns)
        files, path = self._files()
        info = files.info(path)
        return int(info["size"]), next((str(info[key]) for key in _VERSIONS if info.get(key)), "")

    def below(self) -> list[str]:
        """Returns the paths of the files in this folder and its folders, relative to it, sorted."""
        files, path = self._files()
        start = path.rstrip("/") + "/"
        return sorted(found.removeprefix(start) for found in files.find(path))

    def open(self) -> BinaryIO:
        """Opens a file to be read."""
        if self.is_local:
            return open(self.url, "rb")
        files, path = self._files()
        return cast(BinaryIO, files.open(path, "rb"))

    @contextmanager
    def writing(self) -> Iterator[BinaryIO]:
        """Opens a new file. At the end of the block it is on the disk, or in the store."""
        if self.is_local:
            os.makedirs(self.parent.url, exist_ok=True)
            with open(self.url, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            return
        files, path = self._files()
        with files.open(path, "wb") as file:
            yield file

    def write(self, content: bytes) -> None:
        """Writes or replaces a file, whole or not at all."""
        if self.is_local:
            temporary = self.temporary()
            with temporary.writing() as file:
                file.write(content)
            temporary.move(self)
            return
        files, path = self._files()
        files.pipe_file(path, content)

    def read(self) -> bytes:
        """Returns the content of a file."""
        with self.open() as file:
            return file.read()

    def move(self, to: Location) -> None:
        """Renames a file, in place of another one if there is one, so that a power cut can't undo it."""
        if self.is_local:
            os.makedirs(to.parent.url, exist_ok=True)
            os.replace(self.url, to.url)
            folder = os.open(to.parent.url, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            return
        files, path = self._files()
        files.mv(path, to._files()[1])

    def remove(self) -> None:
        """Removes a file, or a folder and what is in it."""
        files, path = self._files()
        files.rm(path, recursive=files.isdir(path))

    def _files(self) -> tuple[Any, str]:
        if self.is_local:
            # Not read as a URL: in one, "::" has a meaning.
            return _fsspec().filesystem("file"), self.url
        files, path = _fsspec().core.url_to_fs(self.url)
        # Other processes write files, too.
        files.invalidate_cache()
        return files, path


def location(path: str | os.PathLike[str], label: str) -> Location:
    """Returns the location of a path or URL. Raises InvalidArgument if fsspec doesn't know the store."""
    text = os.fspath(path)
    if "://" not in text or text.startswith("file://"):
        return Location(os.path.abspath(text.removeprefix("file://")))
    try:
        _fsspec().core.url_to_fs(text)
    except (ImportError, ValueError) as error:
        raise InvalidArgument(f"{label}: got {text!r}, which can't be opened: {error}") from None
    return Location(text.rstrip("/"))


def _fsspec() -> Any:
    try:
        import fsspec.core
    except ImportError as missing:
        raise missing_package(missing) from None
    return fsspec


def missing_package(error: ImportError) -> InvalidArgument:
    """Returns the error for a package of the extra that isn't installed."""
    return InvalidArgument(f"score: requires {error.name}: pip install '.[score]' in the folder of the repository")
