"""Files written by a run's callbacks, for listing and download."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from layerserve_server.errors import NotFoundError, safe_text

#: Maximum number of files that a run's callbacks may write, and that are listed.
MAX_FILES = 10_000
#: Size of the pieces of a downloaded file, in bytes.
CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True)
class RunFile:
    """A file: path relative to the files' folder with '/', size in bytes, and modification time (Unix, in seconds)."""

    name: str
    bytes: int
    modified_time: float


def listed(folder: Path) -> list[RunFile]:
    """Lists the regular files below a folder, sorted by name. Excludes links and hidden files (still being written)."""
    found: list[RunFile] = []
    for path, _, names in os.walk(folder):
        for name in names:
            file = Path(path, name)
            try:
                state = file.lstat()
            except OSError:
                continue
            if stat.S_ISREG(state.st_mode) and not name.startswith("."):
                found.append(RunFile(file.relative_to(folder).as_posix(), state.st_size, state.st_mtime))
            if len(found) == MAX_FILES:
                return sorted(found, key=lambda one: one.name)
    return sorted(found, key=lambda one: one.name)


def opened(folder: Path, name: str) -> tuple[RunFile, BinaryIO]:
    """Opens one of the listed files for reading. Raises NotFoundError for any other name or path."""
    for file in listed(folder):
        if file.name == name:
            try:
                return file, os.fdopen(os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
            except OSError as error:
                raise NotFoundError(f"file '{safe_text(name, 80)}' can't be read: {error.strerror}") from error
    raise NotFoundError(f"the run has no file '{safe_text(name, 80)}'")


def chunks(file: BinaryIO, length: int) -> Iterator[bytes]:
    """Yields the first `length` bytes of a file in pieces, or fewer if the file is shorter."""
    while length > 0 and (chunk := file.read(min(CHUNK, length))):
        length -= len(chunk)
        yield chunk
