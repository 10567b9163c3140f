"""What is scored: files of one kind, and the fragments of them that are scored one by one.

Fragments depend on the files alone, never on how the work is shared. So a result that was resumed is that of an
undisturbed job.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from layerserve.errors import InvalidArgument
from layerserve.scoring.files.locations import Location
from layerserve.values.table_files.formats import is_hidden

#: Suffixes by kind.
KINDS = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".tsv"),
    "npz": (".npz",),
    "images": (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"),
}
#: Row groups of a Parquet file are joined to fragments of about this many rows. Others have files of many small ones.
ROWS = 1 << 17
#: Maximum number of images in a fragment.
IMAGES = 1024
#: Number of files in a store that are asked for at once.
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file as it was when the job began."""

    location: Location
    #: The path relative to the input's.
    name: str
    size: int
    version: str

    def check(self) -> None:
        """Raises InvalidArgument if it was changed."""
        try:
            found = self.location.content_version()
        except FileNotFoundError:
            raise InvalidArgument(f"{self.name}: the file was removed during the job") from None
        if found != (self.size, self.version):
            raise InvalidArgument(f"{self.name}: the file was changed during the job; start again with --overwrite")


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of the input, which becomes a file of the result.

    `start` and `stop` are row groups of a Parquet file, or rows of an `.npz` file. `size` is a measure of the work.
    """

    index: int
    files: tuple[InputFile, ...]
    start: int = 0
    stop: int = 0
    size: int = 1
    #: Why the file can't be read; empty if it can.
    problem: str = ""

    @property
    def label(self) -> str:
        """For error texts."""
        if len(self.files) > 1:
            return f"{self.files[0].name} to {self.files[-1].name}"
        return self.files[0].name + (f", row groups {self.start} to {self.stop - 1}" if self.stop > self.start else "")


@dataclass(frozen=True)
class Source:
    """The files of an input."""

    location: Location
    kind: str
    files: tuple[InputFile, ...]


def find(location: Location, name: str = "") -> Source:
    """Finds the files at a location. `name` is what a single file is called in errors and in the manifest.

    Raises InvalidArgument if there are none, or files of several kinds.
    """
    if not location.exists():
        raise InvalidArgument(f"IN: {location.url!r} doesn't exist; expected a file or a folder")
    is_folder = location.is_folder()
    names = [name for name in location.below() if not is_hidden(name)] if is_folder else [location.name]
    by_kind = {kind: [name for name in names if name.lower().endswith(ends)] for kind, ends in KINDS.items()}
    found = {kind: several for kind, several in by_kind.items() if several}
    if not found:
        raise InvalidArgument(
            f"IN: got {location.url!r} with {', '.join(map(repr, names[:3])) or 'no files'}, expected files that end "
            f"with {', '.join(end for ends in KINDS.values() for end in ends)}"
        )
    if len(found) > 1:
        counts = ", ".join(f"{len(several)} of kind {kind} ({several[0]!r})" for kind, several in found.items())
        raise InvalidArgument(f"IN: got files in {location.url!r}: {counts}; expected one kind")
    ((kind, chosen),) = found.items()
    for one in chosen:
        try:
            one.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(f"IN: got a file whose name isn't UTF-8, {os.fsencode(one)!r}; rename it") from None
    at = location if is_folder else location.parent
    with ThreadPoolExecutor(1 if location.is_local else _AT_ONCE) as pool:
        files = tuple(pool.map(partial(_file, at), chosen))
    if name and not is_folder:
        files = tuple(replace(file, name=name) for file in files)
    return Source(location, kind, files)


def _file(folder: Location, name: str) -> InputFile:
    location = folder.child(name)
    return InputFile(location, name, *location.content_version())


def divided(source: Source, described: Sequence[Any]) -> Iterator[Fragment]:
    """Yields the fragments. `described` are the `readers.FileInfo` of the files, but for images."""
    if source.kind == "images":
        for index, start in enumerate(range(0, len(source.files), IMAGES)):
            files = source.files[start : start + IMAGES]
            yield Fragment(index, files, size=len(files))
        return
    index = 0
    for file, info in zip(source.files, described, strict=True):
        if info.problem:
            yield Fragment(index, (file,), problem=info.problem)
            index += 1
            continue
        for start, stop, size in info.ranges:
            yield Fragment(index, (file,), start, stop, size)
            index += 1
