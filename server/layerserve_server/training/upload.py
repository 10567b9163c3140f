"""Upload of a run's data, chunk by chunk, to files that the child process memory-maps: .npy, and two for text."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from layergraph.training.mapped_text import MappedText
from layerserve import tensors
from layerserve.errors import InvalidTensor

from layerserve_server.errors import IncompleteDataError, InvalidRequestError, InvalidTensorError, NotTrainableError
from layerserve_server.training import data_root
from layerserve_server.training.digests import write_digests
from layerserve_server.training.request import DataArray
from layerserve_server.training.text_files import TextWriter, read_text, split_texts

#: Name of the data folder in a run's folder.
DATA = "data"


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
        self._files: dict[int, BinaryIO | TextWriter] = {}
        try:
            (folder / DATA).mkdir(exist_ok=True)
            for index, array in enumerate(arrays):
                if array.path:
                    continue
                path = data_file(folder, index)
                if array.is_text:
                    self._files[index] = TextWriter(path, array, room)
                    continue
                file = self._files[index] = path.open("wb")
                header = {"descr": array.held_dtype.str, "fortran_order": False, "shape": array.shape}
                np.lib.format.write_array_header_2_0(file, header)
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
                file.write(np.ascontiguousarray(values).data)
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
            write_digests(self._folder, {index: self._digests[index].hexdigest() for index in self._files})
        except OSError as error:
            raise _unwritable(error) from error

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        for file in self._files.values():
            file.close()


def data_file(folder: Path, index: int) -> Path:
    """Returns the path of an array in a run's folder."""
    return folder / DATA / f"{index}.npy"


def read_data(
    folder: Path, arrays: Sequence[DataArray], root: Path | None = None, room: int = sys.maxsize
) -> list[npt.NDArray[Any] | MappedText]:
    """Returns the memory-mapped arrays of a run. Compressed arrays and text of files are unpacked to its folder first.

    `root` is the data root, `room` the maximum size of a text array in bytes. Raises as `data_root.mapped` does,
    TooLargeError for too much text, and OSError.
    """
    return [_read(folder, index, array, root or Path(), room) for index, array in enumerate(arrays)]


def _read(folder: Path, index: int, array: DataArray, root: Path, room: int) -> npt.NDArray[Any] | MappedText:
    if array.mapped:
        return data_root.mapped(root, array.path, array.key, array.stamp)
    held = data_file(folder, index)
    if array.path and not held.exists():
        held.parent.mkdir(exist_ok=True)
        _unpack(held, array, root, room)
    if array.is_text:
        return read_text(held, array)
    found: npt.NDArray[Any] = np.load(held, mmap_mode="r" if array.held_bytes else None, allow_pickle=False)
    return found


def _unpack(held: Path, array: DataArray, root: Path, room: int) -> None:
    part = held.with_suffix(".part")
    if array.is_text:
        with TextWriter(part, array, room) as writer:
            data_root.unpack_text(root, array.path, array.key, array.stamp, writer.write)
    else:
        data_root.unpack(root, array.path, array.key, array.stamp, part)
    os.replace(part, held)


def _unwritable(error: OSError) -> NotTrainableError:
    return NotTrainableError(f"the data can't be stored: {error.strerror}")
