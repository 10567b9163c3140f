"""Upload of the arrays that a caller sends with a run, chunk by chunk, to the run's folder."""

from __future__ import annotations

import contextlib
import hashlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from layerserve.errors import InvalidTensor
from layerserve.values import tensors

from layerserve_server.datasets.writer import TextWriter, array_writer, split_texts
from layerserve_server.errors import IncompleteDataError, InvalidRequestError, InvalidTensorError, NotTrainableError
from layerserve_server.training.request import DataArray
from layerserve_server.training.run_folder.data import DATA, array_file
from layerserve_server.training.run_folder.digests import write_digests


class Upload:
    """Writes the chunks of a run's arrays. A context manager; call `check_complete` after the last chunk."""

    def __init__(self, folder: Path, arrays: Sequence[DataArray], room: int = sys.maxsize) -> None:
        """`folder` is the run's folder, `room` the maximum size of a text array in bytes.

        Raises NotTrainableError if the folder can't be written.
        """
        self._folder = folder
        self._arrays = arrays
        #: What has come of the arrays that are sent, by index.
        self._sent: dict[int, _SentArray] = {}
        try:
            (folder / DATA).mkdir(exist_ok=True)
            for index, array in enumerate(arrays):
                if array.file is None:
                    self._sent[index] = _SentArray(array_file(folder, index), array, room)
        except OSError as error:
            self._close()
            raise _unwritable(error) from error

    def add(self, index: int, data: bytes) -> None:
        """Writes the next rows of an array.

        Raises InvalidRequestError if there is no such array or it has too many rows, InvalidTensorError if the bytes
        aren't whole rows, TooLargeError for too much text, and NotTrainableError if the disk is full.
        """
        try:
            self._array(index, "chunk").add(data)
        except OSError as error:
            raise _unwritable(error) from error

    def check_digest(self, index: int, sha256: bytes) -> None:
        """Checks the SHA-256 digest of an array's data. Raises IncompleteDataError if it differs.

        Raises InvalidRequestError if there is no such array.
        """
        sent = self._array(index, "digest")
        if sent.digest.digest() != sha256:
            raise IncompleteDataError(
                f"{sent.label}: got data with sha256 {sent.digest.hexdigest()}, expected {sha256.hex()}"
            )

    def check_complete(self) -> None:
        """Notes what came. Raises IncompleteDataError if an array lacks rows, NotTrainableError if the disk is full."""
        for sent in self._sent.values():
            sent.check_complete()
        try:
            for sent in self._sent.values():
                sent.file.close()
            write_digests(self._folder, {index: sent.digest.hexdigest() for index, sent in self._sent.items()})
        except OSError as error:
            raise _unwritable(error) from error

    def _array(self, index: int, what: str) -> _SentArray:
        if not 0 <= index < len(self._arrays):
            raise InvalidRequestError(
                f"got a {what} for array {index}, but the spec declares {len(self._arrays)} arrays"
            )
        if index not in self._sent:
            label = self._arrays[index].label()
            raise InvalidRequestError(f"{label}: got a {what}, expected none for an array read from a file")
        return self._sent[index]

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        for sent in self._sent.values():
            # On a full disk closing fails, too, as it writes what is still buffered.
            with contextlib.suppress(OSError):
                sent.file.close()


class _SentArray:
    """What has come of an array."""

    def __init__(self, path: Path, array: DataArray, room: int) -> None:
        """Raises OSError."""
        self.label = array.label()
        self.digest = hashlib.sha256()
        self.file = array_writer(path, array.dtype, array.shape, self.label, room)
        self._array = array
        self._rows = 0

    def add(self, data: bytes) -> None:
        """Writes the next rows. Raises as `Upload.add` does, and OSError."""
        array = self._array
        of_row = math.prod(array.shape[1:])
        if isinstance(self.file, TextWriter):
            texts = split_texts(data, self.label)
            rows = self._whole_rows(len(texts), of_row, "texts")
            self.file.write(texts)
        else:
            rows = self._whole_rows(len(data), of_row * tensors.itemsize(array.dtype), "bytes")
            try:
                values = tensors.decode_data(data, array.dtype, (rows, *array.shape[1:]), array.name)
            except InvalidTensor as error:
                raise InvalidTensorError(f"{self.label}: {error}") from error
            self.file.write(values)
        self.digest.update(data)
        self._rows += rows

    def _whole_rows(self, got: int, of_row: int, unit: str) -> int:
        """Returns the number of rows in a chunk of `got` units. Raises as `Upload.add` does."""
        expected = self._array.rows
        rows, rest = divmod(got, of_row) if of_row else (expected, got)
        if rest:
            raise InvalidTensorError(
                f"{self.label}: got a chunk of {got} {unit}, expected whole rows of {of_row} {unit} each"
            )
        if self._rows + rows > expected:
            raise InvalidRequestError(f"{self.label}: got more than the {expected} rows that the spec declares")
        return rows

    def check_complete(self) -> None:
        """Raises IncompleteDataError if rows are lacking."""
        # An array with empty rows needs no chunk.
        if self._rows < self._array.rows and self._array.held_bytes:
            raise IncompleteDataError(
                f"{self.label}: the stream ended after {self._rows} rows, expected {self._array.rows} as the spec "
                "declares"
            )


def _unwritable(error: OSError) -> NotTrainableError:
    return NotTrainableError(f"the data can't be stored: {error.strerror}")
