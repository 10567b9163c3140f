"""The bytes of a dataset: a file as it is, or arrays as the .npz file that they would be, made while it is sent."""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from layerserve.errors import InvalidArgument
from layerserve.training.data import validation_parts
from layerserve.v1 import datasets_pb2 as pb
from layerserve.values.casting import as_array, as_rows, default_cast
from layerserve.values.tensors import Array, array_dtype

#: Size of the pieces in which a dataset is read and sent, in bytes.
PIECE = 1 << 20
FORMATS = {
    ".npz": pb.DATASET_FORMAT_NPZ,
    ".parquet": pb.DATASET_FORMAT_PARQUET,
    ".csv": pb.DATASET_FORMAT_CSV,
    ".tsv": pb.DATASET_FORMAT_TSV,
}
#: Text has the width of the longest in an array: maximum size of what that adds, in bytes, and as a multiple.
MAX_PADDING, MAX_PADDING_RATIO = 64 << 20, 8


class Content(Protocol):
    """What is uploaded. `pieces` may be called several times, and gives the same bytes each time."""

    @property
    def format(self) -> pb.DatasetFormat.ValueType:
        """Format of the file."""

    def pieces(self, offset: int = 0) -> Iterator[bytes]:
        """Yields the bytes from an offset on, in pieces. Raises OSError, and InvalidArgument as slicing does."""


@dataclass(frozen=True)
class Measured:
    """A content with its size in bytes and its SHA-256."""

    content: Content
    size: int
    sha256: bytes


def measured(content: Content, progress: Callable[[int], object]) -> Measured:
    """Reads a content once, to find its size and digest. `progress` is called with the bytes read so far."""
    digest, size = hashlib.sha256(), 0
    for piece in content.pieces():
        digest.update(piece)
        size += len(piece)
        progress(size)
    return Measured(content, size, digest.digest())


class FileContent:
    """A .npz, .parquet, .csv or .tsv file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises InvalidArgument for another suffix."""
        self._path = Path(path)
        if self._path.suffix not in FORMATS:
            raise InvalidArgument(
                f"{path}: got {self._path.suffix or 'no suffix'}, expected {', '.join(FORMATS)}, or arrays"
            )
        self.format = FORMATS[self._path.suffix]

    def pieces(self, offset: int = 0) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            file.seek(offset)
            while piece := file.read(PIECE):
                yield piece


class ArrayContent:
    """Arrays by name. They are sliced, so data on disk (memmap, h5py) is never read as a whole."""

    format = pb.DATASET_FORMAT_NPZ

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        """Raises InvalidArgument or a subclass for data that isn't an array of numbers or text."""
        self._arrays = {name: _Rows(name, value) for name, value in arrays.items()}

    def pieces(self, offset: int = 0) -> Iterator[bytes]:
        sink = _Sink()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
            for name, rows in self._arrays.items():
                # A ZipInfo of its own has no time, which would be another one when the upload goes on.
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    header = {"descr": rows.dtype.str, "fortran_order": False, "shape": rows.shape}
                    np.lib.format.write_array_header_2_0(member, header)
                    for part in rows.parts():
                        member.write(part.data)
                        yield from sink.taken(offset)
        yield from sink.taken(offset)


class _Sink:
    """What zipfile writes to, without a position: so it writes sizes behind the data, not before them."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._passed = 0

    def write(self, data: Any) -> int:
        self._held.append(bytes(data))
        return len(self._held[-1])

    def flush(self) -> None:
        """Does nothing."""

    def taken(self, offset: int) -> Iterator[bytes]:
        """Yields what was written since the last call, without the bytes before an offset."""
        data = b"".join(self._held)
        self._held = []
        start, self._passed = self._passed, self._passed + len(data)
        if self._passed > offset:
            yield data[max(0, offset - start) :]


class _Rows:
    """An array of rows, in the form in which .npy files hold it."""

    def __init__(self, name: str, value: Any) -> None:
        self._name = name
        self._rows = as_rows(value, name)
        self.shape = tuple(int(length) for length in self._rows.shape)
        row_bytes = math.prod(self.shape[1:]) * 8
        self._step = max(1, PIECE // max(1, row_bytes))
        first = default_cast(as_array(self._rows[:1], name), name)
        self._is_text = array_dtype(first, name) == "string"
        # NumPy's files have no bfloat16.
        self.dtype = np.dtype("float32") if first.dtype.name == "bfloat16" else first.dtype
        if self._is_text:
            self.dtype = self._text_dtype()

    def parts(self) -> Iterator[Array]:
        """Yields the rows, some at a time."""
        for part in self._slices():
            yield np.ascontiguousarray(self._texts(part) if self._is_text else part, self.dtype)

    def _slices(self) -> Iterator[Array]:
        for start in range(0, self.shape[0], self._step):
            yield default_cast(as_array(self._rows[start : start + self._step], self._name), self._name)

    def _texts(self, part: Array) -> Array:
        texts = [_encoded(one, self._name) for one in part.ravel()]
        return np.array(texts, self.dtype).reshape(part.shape)

    def _text_dtype(self) -> np.dtype[Any]:
        """Returns the dtype for the longest text. Raises InvalidArgument if most of the file would be padding."""
        width = total = count = 0
        for part in self._slices():
            for one in part.ravel():
                length = len(_encoded(one, self._name))
                width, total, count = max(width, length), total + length, count + 1
        padding = width * count - total
        if padding > MAX_PADDING and padding > MAX_PADDING_RATIO * total:
            raise InvalidArgument(
                f"{self._name}: got texts of {total} bytes, the longest of {width}, which a .npz file would hold in "
                f"{width * count}; expected texts of similar lengths, or a Parquet file"
            )
        return np.dtype(f"S{max(1, width)}")


def _encoded(text: Any, name: str) -> bytes:
    data = text if isinstance(text, bytes) else str(text).encode()
    if data.endswith(b"\0"):
        raise InvalidArgument(f"{name}: got a text that ends with a zero byte, which a .npz file can't hold")
    return data


def role_arrays(x: Any, y: Any, sample_weight: Any, validation_data: Sequence[Any] | None) -> dict[str, Any]:
    """Returns data by the names that arrays have in a dataset: "x", "y/OUTPUT", "validation_x/0" for one of a list.

    Raises InvalidArgument if there is none, or `validation_data` is invalid.
    """
    given = {"x": x, "y": y, "sample_weight": sample_weight}
    if validation_data is not None:
        names = ("validation_x", "validation_y", "validation_sample_weight")
        given |= dict(zip(names, validation_parts(validation_data), strict=True))
    arrays: dict[str, Any] = {}
    for role, value in given.items():
        for name, one in _parts(value):
            if one is not None:
                arrays[f"{role}/{name}" if name else role] = one
    if not arrays:
        raise InvalidArgument("dataset: got no data, expected a file or arrays")
    return arrays


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(name), one) for name, one in value.items()]
    if hasattr(value, "columns") and hasattr(value, "items"):  # a DataFrame
        return [(str(name), np.asarray(one)) for name, one in value.items()]
    if isinstance(value, (list, tuple)) and value and all(hasattr(one, "shape") or one is None for one in value):
        return [(str(place), one) for place, one in enumerate(value)]
    return [("", value)]
