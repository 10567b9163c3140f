"""Upload of a run's data, chunk by chunk, to files that the child process memory-maps: .npy, and two for text."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from layergraph.training.mapped_text import MappedText
from layerserve.errors import InvalidTensor
from layerserve.values import tensors

from layerserve_server.datasets import data_file
from layerserve_server.datasets.reader import Unpacking
from layerserve_server.disk import open_lock
from layerserve_server.errors import IncompleteDataError, InvalidRequestError, InvalidTensorError, NotTrainableError
from layerserve_server.training.number_files import NumberWriter
from layerserve_server.training.request import DataArray
from layerserve_server.training.run_folder.digests import write_digests
from layerserve_server.training.text_files import TextWriter, read_text, split_texts

#: Name of the data folder in a run's folder.
DATA = "data"
#: Name of the file in it that is locked while files are unpacked.
LOCK = "unpacking.lock"


class Upload:
    """Writes the chunks of a run's arrays. A context manager; call `check_complete` after the last chunk."""

    def __init__(self, folder: Path, arrays: Sequence[DataArray], room: int = sys.maxsize) -> None:
        """`folder` is the run's folder, `room` the maximum size of a text array in bytes.

        Raises NotTrainableError if the folder can't be written.
        """
        self._folder = folder
        self._arrays = arrays
        self._count = f"{len(arrays)} arrays"
        self._rows = [0] * len(arrays)
        self._digests = [hashlib.sha256() for _ in arrays]
        self._files: dict[int, NumberWriter | TextWriter] = {}
        try:
            (folder / DATA).mkdir(exist_ok=True)
            for index, array in enumerate(arrays):
                if array.path:
                    continue
                self._files[index] = _writer(array_file(folder, index), array, room)
        except OSError as error:
            self._close()
            raise _unwritable(error) from error

    def add(self, index: int, data: bytes) -> None:
        """Writes the next rows of an array.

        Raises InvalidRequestError if there is no such array or it has too many rows, InvalidTensorError if the bytes
        aren't whole rows, TooLargeError for too much text, and NotTrainableError if the disk is full.
        """
        if not 0 <= index < len(self._arrays):
            raise InvalidRequestError(f"got a chunk for array {index}, but the spec declares {self._count}")
        array = self._arrays[index]
        if array.path:
            raise InvalidRequestError(f"{array.label()}: got a chunk, expected none for an array read from a file")
        file = self._files[index]
        row_elements = int(np.prod(array.shape[1:], dtype=np.int64))
        if isinstance(file, TextWriter):
            texts = split_texts(data, array.label())
            rows = self._whole_rows(index, len(texts), row_elements, "texts")
        else:
            rows = self._whole_rows(index, len(data), row_elements * tensors.itemsize(array.dtype), "bytes")
        try:
            if isinstance(file, TextWriter):
                file.write(texts)
            else:
                values = tensors.decode_data(data, array.dtype, (rows, *array.shape[1:]), array.name)
                file.write(values)
        except InvalidTensor as error:
            raise InvalidTensorError(f"{array.label()}: {error}") from error
        except OSError as error:
            raise _unwritable(error) from error
        self._digests[index].update(data)
        self._rows[index] += rows

    def _whole_rows(self, index: int, got: int, of_row: int, unit: str) -> int:
        """Returns the number of rows in a chunk of `got` units. Raises as `add` does."""
        array = self._arrays[index]
        rows, rest = divmod(got, of_row) if of_row else (array.rows, got)
        if rest:
            raise InvalidTensorError(
                f"{array.label()}: got a chunk of {got} {unit}, expected whole rows of {of_row} {unit} each"
            )
        if self._rows[index] + rows > array.rows:
            raise InvalidRequestError(f"{array.label()}: got more than the {array.rows} rows that the spec declares")
        return rows

    def check_digest(self, index: int, sha256: bytes) -> None:
        """Checks the SHA-256 digest of an array's data. Raises IncompleteDataError if it differs.

        Raises InvalidRequestError if there is no such array.
        """
        if not 0 <= index < len(self._arrays):
            raise InvalidRequestError(f"got a digest for array {index}, but the spec declares {self._count}")
        got = self._digests[index]
        if got.digest() != sha256:
            raise IncompleteDataError(
                f"{self._arrays[index].label()}: got data with sha256 {got.hexdigest()}, expected {sha256.hex()}"
            )

    def check_complete(self) -> None:
        """Notes what came. Raises IncompleteDataError if an array lacks rows, NotTrainableError if the disk is full."""
        for array, rows in zip(self._arrays, self._rows, strict=True):
            # An array with empty rows needs no chunk.
            if not array.path and rows < array.rows and array.held_bytes:
                raise IncompleteDataError(
                    f"{array.label()}: the stream ended after {rows} rows, expected {array.rows} as the spec declares"
                )
        try:
            for file in self._files.values():
                file.close()
            write_digests(self._folder, {index: self._digests[index].hexdigest() for index in self._files})
        except OSError as error:
            raise _unwritable(error) from error

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        for file in self._files.values():
            # On a full disk closing fails, too, as it writes what is still buffered.
            with contextlib.suppress(OSError):
                file.close()


def array_file(folder: Path, index: int) -> Path:
    """Returns the path of an array in a run's folder."""
    return folder / DATA / f"{index}.npy"


def read_data(
    folder: Path,
    arrays: Sequence[DataArray],
    root: Path | None = None,
    room: int = sys.maxsize,
    datasets: Path | None = None,
) -> list[npt.NDArray[Any] | MappedText]:
    """Returns the memory-mapped arrays of a run. Arrays of files that can't be mapped are unpacked to its folder first.

    `root` is the data root, `datasets` the folder of datasets, and `room` the maximum size of a text array in bytes.
    Raises as `data_file.mapped` does, TooLargeError for too much text, NotTrainableError for a damaged file of the run,
    and OSError.
    """
    roots = [(datasets if array.dataset else root) or Path() for array in arrays]
    if _packed(folder, arrays, roots):
        with _alone(folder):
            for (held_in, path, stamp), packed in _packed(folder, arrays, roots).items():
                _unpack(folder, packed, held_in, path, stamp, room)
    return [_read(folder, index, array, roots[index]) for index, array in enumerate(arrays)]


def _packed(
    folder: Path, arrays: Sequence[DataArray], roots: Sequence[Path]
) -> dict[tuple[Path, str, tuple[int, ...]], dict[int, DataArray]]:
    """Returns the arrays that must still be unpacked, by index, of each root, path and stamp."""
    found: dict[tuple[Path, str, tuple[int, ...]], dict[int, DataArray]] = {}
    for index, array in enumerate(arrays):
        if array.path and not array.mapped and not array_file(folder, index).exists():
            found.setdefault((roots[index], array.path, array.stamp), {})[index] = array
    return found


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds a lock, so that of several workers of a run one unpacks, and the others wait."""
    (folder / DATA).mkdir(exist_ok=True)
    with open_lock(folder / DATA / LOCK) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(folder: Path, index: int, array: DataArray, root: Path) -> npt.NDArray[Any] | MappedText:
    if array.mapped:
        return data_file.mapped(root, array.path, array.selection, array.stamp)
    held = array_file(folder, index)
    try:
        if array.is_text:
            return read_text(held, array)
        found: npt.NDArray[Any] = np.load(held, mmap_mode="r" if array.held_bytes else None, allow_pickle=False)
        if (found.shape, found.dtype) != (array.shape, array.held_dtype):
            raise ValueError(f"got {found.dtype} of shape {found.shape}")
    except (ValueError, EOFError) as error:
        raise NotTrainableError(f"{array.label()}: the run's file {held.name} is damaged: {error}") from error
    return found


def _unpack(
    folder: Path, arrays: Mapping[int, DataArray], root: Path, path: str, stamp: tuple[int, ...], room: int
) -> None:
    """Unpacks arrays of one file, in one pass."""
    parts = {index: array_file(folder, index).with_suffix(".part") for index in arrays}
    with contextlib.ExitStack() as stack:
        wanted: list[Unpacking] = []
        for index, array in arrays.items():
            sink = _writer(parts[index], array, room)
            stack.callback(sink.close)
            wanted.append((array.selection, array.dtype, array.shape, sink))
        data_file.unpack(root, path, stamp, wanted)
    for index, part in parts.items():
        os.replace(part, array_file(folder, index))


def _writer(path: Path, array: DataArray, room: int) -> TextWriter | NumberWriter:
    return TextWriter(path, array, room) if array.is_text else NumberWriter(path, array)


def _unwritable(error: OSError) -> NotTrainableError:
    return NotTrainableError(f"the data can't be stored: {error.strerror}")
