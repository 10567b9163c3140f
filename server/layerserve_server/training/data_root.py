"""Files of data that the server sees: .npy, .npz and Parquet below one folder, and nothing outside of it.

A path is walked part by part with O_NOFOLLOW from the folder on, so neither a symbolic link nor a rename meanwhile
leads out. Arrays that lie in a file as they are (.npy, and .npz without compression) are mapped and never read whole.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from layerserve.tensors import NUMPY_DTYPES

from layerserve_server.errors import ForbiddenPathError, InvalidRequestError, InvalidTensorError, NotTrainableError

Array = npt.NDArray[Any]

#: Bytes copied at a time while an array is unpacked.
CHUNK = 1 << 20
#: A zip file's local header: its length, and where in it the lengths of name and extra field are.
_LOCAL_HEADER = struct.Struct("<26xHH")
#: Arrow's numbers, whose names are NumPy's but for the floats'.
_ARROW_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}
_ARROW_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_ARROW_NUMBERS = {"bool", *_ARROW_INTEGERS, *_ARROW_FLOATS.values()}


@dataclass(frozen=True, slots=True)
class FiledArray:
    """What a file says of an array: element type, shape, whether it can be mapped, and size and mtime of the file."""

    dtype: str
    shape: tuple[int, ...]
    mapped: bool
    stamp: tuple[int, ...]


def describe(root: Path | None, path: str, key: str) -> FiledArray:
    """Looks at an array without reading it.

    Raises NotTrainableError where the server has no data root, ForbiddenPathError for a path that leads out of it,
    InvalidRequestError for a file or key that isn't there, InvalidTensorError for one that holds no numbers.
    """
    if root is None:
        raise NotTrainableError(f"data file '{path}': this server reads no data files; it has no data root")
    with _open(root, path) as file:
        return _Reader.of(path, key, file).described(_stamp(file))


def mapped(root: Path, path: str, key: str, stamp: tuple[int, ...]) -> Array:
    """An array that can be mapped, mapped. Raises as `describe` does, also where the file has changed since."""
    with _open(root, path, stamp) as file:
        return _Reader.of(path, key, file).map()


def unpack(root: Path, path: str, key: str, stamp: tuple[int, ...], target: Path) -> None:
    """Writes an array that can't be mapped as a .npy file, a piece at a time. Raises as `mapped` does, and OSError."""
    with _open(root, path, stamp) as file, target.open("wb") as written:
        reader = _Reader.of(path, key, file)
        array = reader.described(())
        header = {"descr": NUMPY_DTYPES[array.dtype].str, "fortran_order": reader.fortran, "shape": array.shape}
        np.lib.format.write_array_header_2_0(written, header)
        start = written.tell()
        for piece in reader.pieces(NUMPY_DTYPES[array.dtype]):
            written.write(np.ascontiguousarray(piece).data)
        expected = int(np.prod(array.shape, dtype=np.int64)) * NUMPY_DTYPES[array.dtype].itemsize
        if written.tell() - start != expected:
            raise InvalidTensorError(f"{reader.label}: got {written.tell() - start} bytes, expected {expected}")


def check_format(path: str) -> None:
    """Raises InvalidRequestError for a file that is none of the formats, or needs what isn't installed."""
    suffix = Path(path).suffix
    if suffix not in _READERS:
        raise InvalidRequestError(f"data file '{path}': got {suffix or 'no suffix'}, expected {', '.join(_READERS)}")


# ---- the file


@contextlib.contextmanager
def _open(root: Path, path: str, stamp: tuple[int, ...] = ()) -> Iterator[BinaryIO]:
    """The file at a path below the root, if it has that stamp."""
    check_format(path)
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in path:
        raise ForbiddenPathError(f"data file '{path}': expected a path below the data root, without '..'")
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = _step(part, folder, path, os.O_DIRECTORY)
            os.close(folder)
            folder = inner
        # Not blocking: a pipe has no writer here.
        handle = _step(parts[-1], folder, path, os.O_NONBLOCK)
    finally:
        os.close(folder)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise InvalidRequestError(f"data file '{path}': expected a regular file")
        if stamp and _stamp(file) != stamp:
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


def _stamp(file: BinaryIO) -> tuple[int, ...]:
    state = os.fstat(file.fileno())
    return state.st_size, state.st_mtime_ns


# ---- what is in it


class _Reader(ABC):
    """One array of an open file. `fortran` is whether columns come first, as NumPy may write them."""

    fortran = False

    def __init__(self, label: str, key: str, file: BinaryIO) -> None:
        self.label = label
        self.key = key
        self.file = file

    @staticmethod
    def of(path: str, key: str, file: BinaryIO) -> _Reader:
        label = f"data file '{path}'" + (f", '{key}'" if key else "")
        try:
            return _READERS[Path(path).suffix](label, key, file)
        except (InvalidRequestError, NotTrainableError):
            raise
        except Exception as error:  # whatever zipfile, NumPy and Arrow raise for a damaged file
            raise InvalidRequestError(f"{label}: {type(error).__name__}: {error}") from error

    @abstractmethod
    def described(self, stamp: tuple[int, ...]) -> FiledArray:
        """What the file says of the array."""

    @abstractmethod
    def map(self) -> Array:
        """The array, mapped."""

    @abstractmethod
    def pieces(self, dtype: np.dtype[Any]) -> Iterator[Array]:
        """All elements, in the order of the file."""

    def checked_dtype(self, dtype: np.dtype[Any]) -> str:
        name = str(dtype.name)
        if dtype.kind not in "biuf" or name not in NUMPY_DTYPES:
            raise InvalidTensorError(f"{self.label}: got type {dtype}, expected numbers")
        return name


class _Npy(_Reader):
    """A .npy file, or one within a .npz file."""

    def __init__(self, label: str, key: str, file: BinaryIO) -> None:
        super().__init__(label, key, file)
        if key:
            raise InvalidRequestError(f"{label}: a .npy file has one array, expected no key")
        self._read_header(file)
        self._offset: int | None = file.tell()
        self._source: IO[bytes] = file

    def _read_header(self, file: IO[bytes]) -> None:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self._shape, self.fortran, self._dtype = read(file)
        self._name = self.checked_dtype(self._dtype)

    def described(self, stamp: tuple[int, ...]) -> FiledArray:
        return FiledArray(self._name, self._shape, self._offset is not None, stamp)

    def map(self) -> Array:
        if self._offset is None:
            raise InvalidRequestError(f"{self.label}: is compressed, and can't be mapped")
        if not all(self._shape):
            return np.zeros(self._shape, self._dtype)
        order = "F" if self.fortran else "C"
        try:
            return np.memmap(self.file, self._dtype, "r", self._offset, self._shape, order)  # type: ignore[call-overload,no-any-return]
        except ValueError as error:
            raise InvalidTensorError(f"{self.label}: the file is shorter than its array") from error

    def pieces(self, dtype: np.dtype[Any]) -> Iterator[Array]:
        size = self._dtype.itemsize
        held = b""
        while data := self._source.read(CHUNK):
            held += data
            whole = len(held) // size * size
            yield np.frombuffer(held[:whole], self._dtype).astype(dtype)
            held = held[whole:]


class _Npz(_Npy):
    """One array of a .npz file."""

    def __init__(self, label: str, key: str, file: BinaryIO) -> None:
        _Reader.__init__(self, label, key, file)
        archive = zipfile.ZipFile(file)
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if not key and len(names) != 1:
            raise InvalidRequestError(f"{label}: has {len(names)} arrays, expected a key: {', '.join(names[:20])}")
        key = key or names[0]
        if key not in names:
            raise InvalidRequestError(f"{label}: {_unknown('key', key, names)}")
        info = archive.getinfo(key + ".npy")
        self._source = archive.open(info)
        self._read_header(self._source)
        self._offset = None
        if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
            header = self._source.tell()
            file.seek(info.header_offset)
            self._offset = info.header_offset + 30 + sum(_LOCAL_HEADER.unpack(file.read(30))) + header


class _Parquet(_Reader):
    """Columns of a Parquet file: one as an array of its own, several side by side in the last axis."""

    def __init__(self, label: str, key: str, file: BinaryIO) -> None:
        super().__init__(label, key, file)
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise NotTrainableError(
                f"{label}: Parquet needs pyarrow; install it beside the server: pip install 'layerserve[parquet]'"
            ) from None
        self._file = parquet.ParquetFile(file)
        known = self._file.schema_arrow.names
        self._columns = key.split(",") if key else known
        for column in self._columns:
            if column not in known:
                raise InvalidRequestError(f"{label}: {_unknown('column', column, known)}")
        self._dtypes = [self._column_dtype(column) for column in self._columns]

    def _column_dtype(self, column: str) -> np.dtype[Any]:
        kind = self._file.schema_arrow.field(column).type
        # Not by Arrow's `to_pandas_dtype`, which until release 26 takes pandas.
        name = _ARROW_FLOATS.get(str(kind), str(kind))
        if name not in _ARROW_NUMBERS:
            raise InvalidTensorError(f"{self.label}: column '{column}' has type {kind}, expected numbers")
        return np.dtype(name)

    def map(self) -> Array:
        raise InvalidRequestError(f"{self.label}: Parquet can't be mapped")

    def described(self, stamp: tuple[int, ...]) -> FiledArray:
        rows = self._file.metadata.num_rows
        shape = (rows,) if len(self._columns) == 1 else (rows, len(self._columns))
        return FiledArray(self.checked_dtype(np.result_type(*self._dtypes)), shape, False, stamp)

    def pieces(self, dtype: np.dtype[Any]) -> Iterator[Array]:
        for batch in self._file.iter_batches(batch_size=8192, columns=self._columns):
            for name in self._columns:
                if batch.column(name).null_count:
                    raise InvalidTensorError(f"{self.label}: column '{name}' has nulls, expected numbers")
            columns = [batch.column(name).to_numpy(zero_copy_only=False).astype(dtype) for name in self._columns]
            yield columns[0] if len(columns) == 1 else np.stack(columns, axis=-1)


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    # Not at the top: this room is read by processes that need no torch, which layergraph brings.
    from layergraph.errors import unknown_name

    return unknown_name(kind, name, known)


_READERS: dict[str, type[_Reader]] = {".npy": _Npy, ".npz": _Npz, ".parquet": _Parquet}
