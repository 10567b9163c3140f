"""Files of rows and answers: .npz, which training reads below its data root. Bounded in memory and on disk."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from layerserve_server.extensions.mirroring.sampled_requests import ID, OUTPUT, OWNER, TIME, owner_digest
from layerserve_server.inference.queue import bytes_of
from layerserve_server.observability.background import Background

logger = logging.getLogger(__name__)

Array: TypeAlias = npt.NDArray[Any]

#: Maximum size of the samples that wait, in bytes, and their maximum number.
MAX_WAITING_BYTES, MAX_WAITING = 64 << 20, 1024
#: Size at which a file is written, in bytes of its arrays, and age of its first sample, in seconds.
FILE_BYTES, FILE_SECONDS = 8 << 20, 60.0
#: Maximum number of files. Beyond it, and beyond the size on disk, the oldest are removed.
MAX_FILES = 10_000
#: Names of files, also of unfinished ones. Others are never removed.
NAME = re.compile(r"\.?[0-9]{8}T[0-9]{6}Z-[0-9]+-[0-9]+\.npz")


class Sample(NamedTuple):
    """Rows of a request and their answers, as arrays with equal first axes, by key."""

    model: str
    version: int
    arrays: Mapping[str, Array]
    rows: int
    id: str
    #: Its caller, by the name as an owner.
    owner: str
    moment: float

    @property
    def size(self) -> int:
        """Size of the arrays, in bytes."""
        return sum(map(bytes_of, self.arrays.values()))


def keyed(inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the arrays of both by the keys that they have in files."""
    return {**inputs, **{OUTPUT + name if name in inputs else name: array for name, array in outputs.items()}}


class SampleFiles:
    """Writes samples to MODEL/VERSION/TIME.npz below a folder, in a thread. What finds no room is dropped."""

    def __init__(self, folder: Path, max_bytes: int, dropped: Callable[[int], None]) -> None:
        """`max_bytes` is the maximum size of all files; `dropped` is called with the number of lost samples."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._dropped = dropped
        #: Size of the samples that wait and of those in `_open`, in bytes.
        self._bytes = 0
        self._lock = threading.Lock()
        #: Samples of the files that are yet to be written, by what their rows must have in common.
        self._open: dict[tuple[Any, ...], list[Sample]] = {}
        #: When the first of them came, by the monotonic clock.
        self._since: dict[tuple[Any, ...], float] = {}
        self._count = 0
        self._background: Background[Sample] = Background("samples", self._take, MAX_WAITING, dropped, self._write_old)

    def add(self, sample: Sample) -> None:
        """Adds a sample. Never blocks."""
        size = sample.size
        with self._lock:
            room = self._bytes + size <= MAX_WAITING_BYTES
            if room:
                self._bytes += size
        if not room:
            self._dropped(1)
        elif not self._background.add(sample):
            self._release(size)

    def close(self) -> None:
        """Writes all samples, and ends the thread."""
        self._background.close()
        self._write(list(self._open))

    # In the thread.

    def _take(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            shapes = sorted((name, array.dtype.str, array.shape[1:]) for name, array in sample.arrays.items())
            key = sample.model, sample.version, tuple(shapes)
            self._open.setdefault(key, []).append(sample)
            self._since.setdefault(key, time.monotonic())
            if sum(one.size for one in self._open[key]) >= FILE_BYTES:
                self._write([key])
        if self._bytes > MAX_WAITING_BYTES // 2:
            self._write(list(self._open))

    def _write_old(self) -> None:
        before = time.monotonic() - FILE_SECONDS
        self._write([key for key, since in self._since.items() if since < before])

    def _write(self, keys: Sequence[tuple[Any, ...]]) -> None:
        for key in keys:
            samples = self._open.pop(key)
            del self._since[key]
            try:
                for part in _parts(samples):
                    self._write_file(part)
            except Exception as error:
                # The disk is full, or can't be written. Requests don't depend on it.
                logger.error("samples of model '%s' can't be written: %s", key[0], error)
                self._dropped(len(samples))
            finally:
                self._release(sum(sample.size for sample in samples))

    def _write_file(self, samples: Sequence[Sample]) -> None:
        first = samples[0]
        folder = self._folder / first.model / str(first.version)
        folder.mkdir(parents=True, exist_ok=True)
        self._count += 1
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(first.moment))
        name = f"{moment}-{os.getpid()}-{self._count}.npz"
        # Not seen by readers before it is complete.
        hidden = folder / f".{name}"
        try:
            with zipfile.ZipFile(hidden, "w", zipfile.ZIP_STORED) as archive:
                # Not numpy.savez, whose own arguments can't be names of arrays.
                for key, array in _joined(samples).items():
                    with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
            self._make_room(hidden)
            hidden.rename(folder / name)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise

    def _make_room(self, new: Path) -> None:
        """Removes the oldest files until the others fit. A new one is the newest, also if the clock was set back."""
        newest = max((time for time, _, path in _files(self._folder) if path != new), default=0)
        if new.stat().st_mtime_ns <= newest:
            os.utime(new, ns=(newest + 1, newest + 1))
        found = sorted(_files(self._folder), key=lambda one: one[0])
        total = sum(size for _, size, _ in found)
        while len(found) > 1 and (total > self._max_bytes or len(found) > MAX_FILES):
            _, size, path = found.pop(0)
            total -= size
            path.unlink(missing_ok=True)

    def _release(self, size: int) -> None:
        with self._lock:
            self._bytes -= size


def _files(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """Yields the time, the size and the path of each file, also of those that a killed server left unfinished."""
    for path in folder.glob("*/*/*.npz"):
        if not NAME.fullmatch(path.name):
            continue
        try:
            found = path.stat()
        except OSError:  # another process has removed it
            continue
        yield found.st_mtime_ns, found.st_size, path


def _parts(samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
    """Divides samples into those of files. Texts have the width of the longest, so one long text makes a file large."""
    part: list[Sample] = []
    for sample in samples:
        if part and _bytes([*part, sample]) > 2 * FILE_BYTES:
            yield part
            part = []
        part.append(sample)
    if part:
        yield part


def _bytes(samples: Sequence[Sample]) -> int:
    rows = sum(sample.rows for sample in samples)
    fixed = sum(array.nbytes for sample in samples for array in sample.arrays.values())
    widths = [
        max(max((len(_text(one)) for one in sample.arrays[name].ravel()), default=0) for sample in samples)
        for name, array in samples[0].arrays.items()
        if array.dtype == object
    ]
    return fixed + rows * sum(widths)


def _joined(samples: Sequence[Sample]) -> dict[str, Array]:
    arrays = {name: _savable(np.concatenate([sample.arrays[name] for sample in samples])) for name in samples[0].arrays}
    rows = [sample.rows for sample in samples]
    about = {
        ID: np.repeat(np.array([sample.id.encode() for sample in samples]), rows),
        OWNER: np.repeat(np.array([owner_digest(sample.owner) for sample in samples]), rows),
        TIME: np.repeat([sample.moment for sample in samples], rows),
    }
    return {**{name: array for name, array in about.items() if name not in arrays}, **arrays}


def _savable(array: Array) -> Array:
    """Returns text as an array of NumPy's fixed-width bytes: NumPy would pickle objects."""
    if array.dtype != object:
        return array
    return np.array([_text(one) for one in array.ravel()], dtype=np.bytes_).reshape(array.shape)


def _text(one: Any) -> bytes:
    return one if isinstance(one, bytes) else str(one).encode()
