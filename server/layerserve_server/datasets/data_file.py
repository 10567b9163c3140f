"""Data files of the server: files of arrays and of columns below one folder, the data root, with numbers or text.

A path is opened part by part with O_NOFOLLOW from the data root on, so neither a symbolic link nor a concurrent rename
leads out of it. `describe` has to run in a separate process with limits on memory and time, as `reader` explains.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy.typing as npt
from layerserve.values.table_files.table import Selection

from layerserve_server.datasets import reader
from layerserve_server.datasets.filed_array import FiledArray
from layerserve_server.datasets.filed_array import stamp as stamp_of
from layerserve_server.datasets.reader import Unpacking
from layerserve_server.disk import STATE_FOLDER
from layerserve_server.errors import ForbiddenPathError, InvalidRequestError, NotTrainableError
from layerserve_server.jobs import table
from layerserve_server.jobs.channel import Channel, never
from layerserve_server.jobs.jobs import Jobs

Array = npt.NDArray[Any]


def describe_in_child(
    jobs: Jobs, root: Path, files: Sequence[tuple[str, Selection]], gone: Callable[[], bool] = never
) -> Sequence[FiledArray]:
    """Describes arrays in files, given by path and selection. Raises as `describe` and `Jobs.run` do."""
    arguments = {"root": str(root), "files": [[path, asdict(selection)] for path, selection in files]}
    reply = jobs.run(table.DESCRIBE_FILES, arguments, jobs.limits(), gone)
    return [
        FiledArray(one["dtype"], tuple(one["shape"]), one["mapped"], tuple(one["stamp"]), tuple(one["columns"]))
        for one in reply["files"]
    ]


def describe_files(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job that describes files."""
    files = [
        (path, Selection(**{**selection, "columns": tuple(selection["columns"])}))
        for path, selection in arguments["files"]
    ]
    return {"files": [asdict(found) for found in describe_all(Path(arguments["root"]), files)]}


def describe(root: Path, path: str, selections: Sequence[Selection]) -> list[FiledArray]:
    """Returns dtype, shape, columns and file stamp of arrays in a file, in one pass.

    Raises NotTrainableError if there is no data root, ForbiddenPathError if the path leads out of it,
    InvalidRequestError if the file doesn't exist, and as `reader.describe` does.
    """
    with _open(root, path) as file:
        return reader.describe(file, path, selections)


def describe_all(root: Path, files: Sequence[tuple[str, Selection]]) -> list[FiledArray]:
    """Describes arrays in several files, each of which is read once. Raises as `describe` does."""
    of_path: dict[str, list[int]] = {}
    for index, (path, _) in enumerate(files):
        of_path.setdefault(path, []).append(index)
    found: dict[int, FiledArray] = {}
    for path, places in of_path.items():
        found.update(zip(places, describe(root, path, [files[place][1] for place in places]), strict=True))
    return [found[index] for index in range(len(files))]


def names(root: Path, path: str) -> list[str]:
    """Returns the names of the arrays of a .npz file, or of the columns of a table. Raises as `describe` does."""
    with _open(root, path) as file:
        return reader.names(file, path)


def mapped(root: Path, path: str, selection: Selection, stamp: tuple[int, ...]) -> Array:
    """Returns a memory-mapped array. Raises as `describe` does, and InvalidRequestError if the file has changed."""
    with _open(root, path, stamp) as file:
        return reader.mapped(file, path, selection)


def unpack(root: Path, path: str, stamp: tuple[int, ...], arrays: Sequence[Unpacking]) -> None:
    """Passes the elements of arrays to their sinks. Raises as `mapped` and the sinks do."""
    with _open(root, path, stamp) as file:
        reader.unpack(file, path, arrays)


def check_path(root: str, path: str) -> None:
    """Checks a path without opening it.

    Raises NotTrainableError if the server has no data root, ForbiddenPathError if the path leads out of it, and
    InvalidRequestError if the format isn't supported.
    """
    if not root:
        raise NotTrainableError(
            f"data file '{path}': this server reads no data files; it has no data root (--data-root)"
        )
    # The folder of models may be below the data root, and with it the state folder, which has other callers' data.
    if any(part in ("", ".", "..", STATE_FOLDER) for part in path.split("/")) or "\0" in path:
        raise ForbiddenPathError(f"data file '{path}': expected a path below the data root, without '..'")
    reader.check_suffix(path)


@contextlib.contextmanager
def _open(root: Path, path: str, stamp: tuple[int, ...] = ()) -> Iterator[BinaryIO]:
    """Opens the regular file at a path below the root. Raises InvalidRequestError if it doesn't have the `stamp`."""
    check_path(str(root), path)
    parts = path.split("/")
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = _step(part, folder, path, os.O_DIRECTORY)
            os.close(folder)
            folder = inner
        # Non-blocking: opening a named pipe would wait for a writer.
        handle = _step(parts[-1], folder, path, os.O_NONBLOCK)
    finally:
        os.close(folder)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise InvalidRequestError(f"data file '{path}': expected a regular file")
        if stamp and stamp_of(file) != stamp:
            raise InvalidRequestError(f"data file '{path}' has changed since the run was accepted")
        yield file


def _step(part: str, folder: int, path: str, flags: int) -> int:
    try:
        return os.open(part, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            if stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
                raise ForbiddenPathError(f"data file '{path}': '{part}' is a symbolic link") from error
        raise InvalidRequestError(f"data file '{path}': {error.strerror}") from error
