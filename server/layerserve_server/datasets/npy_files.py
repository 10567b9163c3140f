"""Arrays in .npy and .npz files. Uncompressed arrays of numbers are memory-mapped and never read whole.

Headers aren't trusted: a declared shape is compared with the file's size.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
from collections.abc import Iterator
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from layerserve.values.table_files.table import FileArray
from layerserve.values.tensors import NUMPY_DTYPES

from layerserve_server.errors import InvalidRequestError, InvalidTensorError
from layerserve_server.records import INT64

Array = npt.NDArray[Any]

#: Size of the pieces in which an array is unpacked, in bytes.
CHUNK = 1 << 20
#: Maximum number of axes of an array, NumPy's own limit.
MAX_AXES = 32
#: Maximum length of a .npy header, in bytes. NumPy's own are a tenth of it.
MAX_HEADER = 1 << 16
#: Maximum ratio of inflated to deflated bytes.
MAX_INFLATION = 1032
#: Local header of a zip file: the lengths of file name and extra field.
_LOCAL_HEADER = struct.Struct("<26xHH")


class NpyReader:
    """Reader of a .npy file. `fortran` is whether its elements are in column-major order."""

    fortran = False
    #: The name of the array, in a file of several.
    columns: tuple[str, ...] = ()

    def __init__(self, label: str, key: str, file: BinaryIO) -> None:
        """`label` names the array in error texts. Raises InvalidRequestError or a subclass, and NumPy's errors."""
        self.label = label
        self.file = file
        file.seek(0)
        self._open(key)

    def _open(self, key: str) -> None:
        label, file = self.label, self.file
        if key:
            raise InvalidRequestError(f"{label}: a .npy file has one array, expected no key")
        self._read_header(file)
        self._offset: int | None = file.tell()
        self._source: IO[bytes] = file
        self._check_size(os.fstat(file.fileno()).st_size - self._offset)

    def _read_header(self, file: IO[bytes]) -> None:
        version = np.lib.format.read_magic(file)
        start = file.tell()
        length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
        if length > MAX_HEADER:
            raise InvalidTensorError(f"{self.label}: got a header of {length} bytes, expected at most {MAX_HEADER}")
        file.seek(start)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self._shape, self.fortran, self._dtype = read(file)
        self._name = self._checked_dtype(self._dtype)
        if self._name == "string" and self.fortran and len(self._shape) > 1:
            raise InvalidTensorError(f"{self.label}: got text in column-major order, expected row-major order")
        if len(self._shape) > MAX_AXES or not all(type(axis) is int and 0 <= axis in INT64 for axis in self._shape):
            shape = str(self._shape[: MAX_AXES + 1])[:200]
            raise InvalidTensorError(
                f"{self.label}: got shape {shape}, expected at most {MAX_AXES} axes, each from 0 to {INT64[-1]} long"
            )

    def _checked_dtype(self, dtype: np.dtype[Any]) -> str:
        name = str(dtype.name)
        if dtype.kind in "SU" and dtype.itemsize:
            return "string"
        if dtype.kind not in "biuf" or name not in NUMPY_DTYPES:
            hint = "; NumPy pickles objects, save text as an array of str" if dtype.kind == "O" else ""
            raise InvalidTensorError(f"{self.label}: got type {dtype}, expected numbers or text{hint}")
        return name

    def _check_size(self, available: int) -> None:
        """Raises InvalidTensorError if the array has more bytes than its part of the file."""
        if (needed := size(self._shape, self._dtype)) > available:
            raise InvalidTensorError(
                f"{self.label}: the file is shorter than its array: got {max(0, available)} bytes, expected {needed} "
                f"for shape {self._shape}"
            )

    def described(self) -> FileArray:
        """Returns what the header says of the array, and whether it can be mapped."""
        is_mapped = self._offset is not None and self._name != "string"
        return FileArray(self._name, self._shape, self.columns, mapped=is_mapped)

    def map(self) -> Array:
        """Returns the memory-mapped array."""
        if self._offset is None:
            raise InvalidRequestError(f"{self.label}: a compressed array can't be mapped")
        if not all(self._shape):
            return np.zeros(self._shape, self._dtype)
        order = "F" if self.fortran else "C"
        try:
            return np.memmap(self.file, self._dtype, "r", self._offset, self._shape, order)  # type: ignore[call-overload,no-any-return]
        except ValueError as error:
            raise InvalidTensorError(f"{self.label}: the file is shorter than its array") from error

    def pieces(self, dtype: np.dtype[Any]) -> Iterator[Array]:
        """Yields all elements in file order, as arrays of this dtype; text as `bytes` objects."""
        itemsize = self._dtype.itemsize
        held = b""
        while data := self._source.read(CHUNK):
            held += data
            whole = len(held) // itemsize * itemsize
            piece = np.frombuffer(held[:whole], self._dtype)
            if self._dtype.kind == "U":
                piece = np.char.encode(piece, "utf-8")
            yield piece.astype(dtype)
            held = held[whole:]


def size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Returns the number of bytes of an array."""
    return math.prod(shape) * dtype.itemsize


def names_in(archive: zipfile.ZipFile) -> list[str]:
    """Returns the names of the arrays in a .npz file, in its order."""
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


class NpzReader(NpyReader):
    """Reader of one array of a .npz file."""

    def _open(self, key: str) -> None:
        label, file = self.label, self.file
        archive = zipfile.ZipFile(file)
        names = names_in(archive)
        if not key and len(names) != 1:
            raise InvalidRequestError(
                f"{label}: the file has {len(names)} arrays, expected a key: {', '.join(names[:20])}"
            )
        key = key or names[0]
        if key not in names:
            # Imported here, since layergraph imports torch, which not all processes that import this module need.
            from layergraph.errors import unknown_name

            raise InvalidRequestError(f"{label}: {unknown_name('key', key, names)}")
        self.columns = (key,)
        info = archive.getinfo(key + ".npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise InvalidTensorError(f"{label}: expected a stored or deflated array that isn't encrypted")
        self._source = archive.open(info)
        self._read_header(self._source)
        header = self._source.tell()
        self._offset = None
        self._check_size(min(info.file_size, MAX_INFLATION * info.compress_size) - header)
        if info.compress_type == zipfile.ZIP_STORED:
            file.seek(info.header_offset)
            self._offset = info.header_offset + 30 + sum(_LOCAL_HEADER.unpack(file.read(30))) + header
            self._check_size(os.fstat(file.fileno()).st_size - self._offset)
