"""A run's data on its way in: chunk by chunk into .npy files, which the child maps instead of reading."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from layerserve import tensors
from layerserve.errors import InvalidTensor

from layerserve_server.errors import IncompleteDataError, InvalidRequestError, InvalidTensorError, NotTrainableError
from layerserve_server.training import data_root
from layerserve_server.training.request import DataArray

#: Folder of the data in the run's.
DATA = "data"


class Upload:
    """Takes the chunks of a run's arrays. Use it as a context; `check_complete` when the last chunk has come."""

    def __init__(self, folder: Path, arrays: Sequence[DataArray]) -> None:
        """`folder` is the run's. Raises NotTrainableError where it can't be written."""
        self._arrays = arrays
        self._rows = [0] * len(arrays)
        self._digests = [hashlib.sha256() for _ in arrays]
        self._files: dict[int, BinaryIO] = {}
        try:
            (folder / DATA).mkdir(exist_ok=True)
            for index, array in enumerate(arrays):
                if array.path:
                    continue
                file = self._files[index] = data_file(folder, index).open("wb")
                header = {"descr": array.held_dtype.str, "fortran_order": False, "shape": array.shape}
                np.lib.format.write_array_header_2_0(file, header)
        except OSError as error:
            self._close()
            raise _unwritable(error) from error

    def add(self, index: int, data: bytes) -> None:
        """Takes the next rows of an array.

        Raises InvalidRequestError for an unknown array or too many rows, InvalidTensorError for bytes that aren't whole
        rows, NotTrainableError where the disk is full.
        """
        if not 0 <= index < len(self._arrays):
            raise InvalidRequestError(f"a chunk is for array {index}, and the spec declares {len(self._arrays)}")
        array = self._arrays[index]
        if array.path:
            raise InvalidRequestError(f"{array.label()}: got a chunk, expected none for what is read from a file")
        row_shape = array.shape[1:]
        row_bytes = tensors.itemsize(array.dtype) * int(np.prod(row_shape, dtype=np.int64))
        rows, rest = divmod(len(data), row_bytes) if row_bytes else (array.rows, len(data))
        if rest:
            raise InvalidTensorError(
                f"{array.label()}: got a chunk of {len(data)} bytes, expected whole rows of {row_bytes} bytes each"
            )
        if self._rows[index] + rows > array.rows:
            raise InvalidRequestError(f"{array.label()}: got more than the {array.rows} rows that the spec declares")
        try:
            values = tensors.decode_data(data, array.dtype, (rows, *row_shape), array.name)
        except InvalidTensor as error:
            raise InvalidTensorError(f"{array.label()}: {error}") from error
        try:
            self._files[index].write(np.ascontiguousarray(values).data)
        except OSError as error:
            raise _unwritable(error) from error
        self._digests[index].update(data)
        self._rows[index] += rows

    def check_digest(self, index: int, sha256: bytes) -> None:
        """Raises IncompleteDataError where what came of an array isn't what the client sent."""
        if not 0 <= index < len(self._arrays):
            raise InvalidRequestError(f"a digest is for array {index}, and the spec declares {len(self._arrays)}")
        got = self._digests[index]
        if got.digest() != sha256:
            raise IncompleteDataError(
                f"{self._arrays[index].label()}: got data with sha256 {got.hexdigest()}, expected {sha256.hex()}"
            )

    def check_complete(self) -> None:
        """Raises IncompleteDataError where rows are missing."""
        for array, rows in zip(self._arrays, self._rows, strict=True):
            # An array whose rows hold nothing needs no chunk.
            if not array.path and rows < array.rows and array.held_bytes:
                raise IncompleteDataError(
                    f"{array.label()}: the stream ended after {rows} rows, expected {array.rows} as the spec declares"
                )

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        for file in self._files.values():
            file.close()


def data_file(folder: Path, index: int) -> Path:
    """Where an array of a run lies."""
    return folder / DATA / f"{index}.npy"


def read_data(folder: Path, arrays: Sequence[DataArray], root: Path | None = None) -> list[npt.NDArray[Any]]:
    """The arrays of a run, mapped into memory; those in packed files are unpacked into the run's folder first.

    `root` is the data root, for arrays in files below it. Raises what `data_root.mapped` raises, and OSError.
    """
    return [_read(folder, index, array, root or Path()) for index, array in enumerate(arrays)]


def _read(folder: Path, index: int, array: DataArray, root: Path) -> npt.NDArray[Any]:
    if array.mapped:
        return data_root.mapped(root, array.path, array.key, array.stamp)
    held = data_file(folder, index)
    if array.path and not held.exists():
        part = held.with_suffix(".part")
        part.parent.mkdir(exist_ok=True)
        data_root.unpack(root, array.path, array.key, array.stamp, part)
        os.replace(part, held)
    found: npt.NDArray[Any] = np.load(held, mmap_mode="r" if array.held_bytes else None, allow_pickle=False)
    return found


def _unwritable(error: OSError) -> NotTrainableError:
    return NotTrainableError(f"the data can't be kept: {error.strerror}")
