"""Finds a model's files on disk, and reads parts of files."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import Any

from layergraph.errors import CorruptFileError, UnsafeFileError

#: Names of the model file in a version folder, by priority; otherwise the only file with one of the suffixes.
MODEL_NAMES = ("model.keras", "model.h5", "model.hdf5", "model.json")
MODEL_SUFFIXES = (".keras", ".h5", ".hdf5")


def find_model(path: Path) -> Path:
    """Returns the model file at `path`: `path` itself, or the model in the version folder `path`.

    Raises CorruptFileError if there is none, or several without a preferred name.
    """
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return path
        present = [entry.name for entry in os.scandir(path) if entry.name not in _OTHER_JSON]
        names = sorted(name for name in present if name.endswith(MODEL_SUFFIXES))
        names = names or sorted(name for name in present if name.endswith(".json"))
    except (OSError, ValueError) as wrong:
        raise CorruptFileError(path, f"can't be opened: {_reason(wrong)}") from wrong
    if not any(name in names for name in MODEL_NAMES) and is_preset(path):
        return path / PRESET_CONFIG
    # `model.weights.h5` has weights only; it is the model file only if there is no other.
    names = [name for name in names if not name.endswith(".weights.h5")] or names
    for name in MODEL_NAMES:
        if name in names:
            return path / name
    if len(names) == 1:
        return path / names[0]
    if not names:
        raise CorruptFileError(path, "the folder has no model file; expected model.keras or model.h5")
    raise CorruptFileError(path, f"the folder has {len(names)} model files: {', '.join(names[:10])}; expected one")


#: Names in a preset folder of KerasHub: config and weights of the backbone, and of a task on it. An unpacked `.keras`
#: has the first two.
PRESET_CONFIG, PRESET_WEIGHTS = "config.json", "model.weights.h5"
TASK_CONFIG, TASK_WEIGHTS = "task.json", "task.weights.h5"
PRESET_SHARDS = "model.weights.json"


def is_preset(folder: Path) -> bool:
    """Whether a folder holds a preset of KerasHub. Links don't count."""
    weights = (PRESET_WEIGHTS, PRESET_SHARDS)
    return _is_file(folder / PRESET_CONFIG) and any(_is_file(folder / name) for name in weights)


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


#: JSON files of the server that aren't models.
_OTHER_JSON = ("manifest.json", "labels.json")


def find_config(weights: Path) -> Path | None:
    """Returns the architecture file next to weights: of the same stem, `model.json`, or the only one; or None."""
    stem = weights.name.partition(".")[0]
    names = _beside(weights, (".json",))
    for name in (f"{stem}.json", f"{stem.removesuffix('_weights')}.json", "model.json"):
        if name in names:
            return weights.parent / name
    return weights.parent / names[0] if len(names) == 1 else None


def find_weights(config: Path) -> Path:
    """Returns the weights next to an architecture. Raises CorruptFileError if there are none, or several candidates."""
    names = _beside(config, (".h5", ".hdf5"))
    for name in (f"{config.stem}{end}" for end in (".weights.h5", ".h5", ".hdf5", "_weights.h5")):
        if name in names:
            return config.parent / name
    if len(names) == 1:
        return config.parent / names[0]
    raise CorruptFileError(config, f"has no weights, and there are {len(names)} weight files next to it; expected one")


def _beside(path: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Regular files in the folder of `path` with these suffixes; links are excluded."""
    with os.scandir(path.parent) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.endswith(suffixes) and entry.name not in _OTHER_JSON and entry.is_file(follow_symlinks=False)
        )


def open_regular(path: Path) -> FileWindow:
    """Opens a regular file for reading. A FIFO, device or folder is rejected without blocking.

    Raises UnsafeFileError for anything but a regular file, CorruptFileError if it can't be opened.
    """
    try:
        # Checked before opening, because opening some devices has effects, and after, as the file may have changed.
        _require_regular(path, path.stat())
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as wrong:
        raise CorruptFileError(path, f"can't be opened: {_reason(wrong)}") from wrong
    try:
        status = os.fstat(descriptor)
        _require_regular(path, status)
    except BaseException:
        os.close(descriptor)
        raise
    return FileWindow(descriptor, 0, status.st_size, owns=True)


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFileError(path, "isn't a regular file")


def _reason(wrong: Exception) -> str:
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
