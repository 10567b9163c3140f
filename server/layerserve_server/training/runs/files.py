"""What the callbacks of a run have written, for whoever wants to have it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from layerserve_server.errors import NotFoundError, safe_text

#: Most files that callbacks of a run may write, and that are listed.
MAX_FILES = 10_000
#: Bytes of a file in one message.
CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True)
class RunFile:
    """A file: name with '/' between its parts, size in bytes, and when it was written last, in seconds since 1970."""

    name: str
    bytes: int
    modified_time: float


def listed(folder: Path) -> list[RunFile]:
    """The regular files below a folder, by name. What is a link, or is still being written, isn't among them."""
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
    """One of the listed files, to be read. Raises NotFoundError for any other name, whatever path it may be."""
    for file in listed(folder):
        if file.name == name:
            try:
                return file, os.fdopen(os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
            except OSError as error:
                raise NotFoundError(f"file '{safe_text(name, 80)}' can't be read: {error.strerror}") from error
    raise NotFoundError(f"the run has no file '{safe_text(name, 80)}'")


def chunks(file: BinaryIO, length: int) -> Iterator[bytes]:
    """The first bytes of a file, piece by piece: what is written meanwhile isn't waited for."""
    while length > 0 and (chunk := file.read(min(CHUNK, length))):
        length -= len(chunk)
        yield chunk
