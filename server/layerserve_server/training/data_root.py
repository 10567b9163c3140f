"""Data files of the server: .npy, .npz and Parquet files below one folder, the data root, with numbers or text.

A path is opened part by part with O_NOFOLLOW from the data root on, so neither a symbolic link nor a concurrent rename
leads out of it. Uncompressed arrays of numbers (.npy, and .npz without compression) are memory-mapped and never read
whole.

Headers aren't trusted: a declared shape is compared with the file's size, and a compressed array is unpacked once to
count its bytes, unless it is large. `describe` has to run in a separate process with limits on memory and time: parsers
of Parquet and zip files allocate what a file declares.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from layerserve.tensors import NUMPY_DTYPES

from layerserve_server.errors import ForbiddenPathError, InvalidRequestError, InvalidTensorError, NotTrainableError

Array = npt.NDArray[Any]

#: Size of the pieces in which an array is unpacked, in bytes.
CHUNK = 1 << 20
#: Maximum size of a compressed array, in bytes of its elements, that is unpacked to check that it is complete.
COUNTED_BYTES = 256 << 20
#: Maximum number of axes of an array, NumPy's own limit.
MAX_AXES = 32
#: Maximum length of a .npy header, in bytes. NumPy's own are a tenth of it.
MAX_HEADER = 1 << 16
#: Maximum ratio of inflated to deflated bytes.
MAX_INFLATION = 1032
#: Local header of a zip file: the lengths of file name and extra field.
_LOCAL_HEADER = struct.Struct("<26xHH")
#: Arrow's numeric types. Only the floats have other names than in NumPy.
_ARROW_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}
_ARROW_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_ARROW_NUMBERS = {"bool", *_ARROW_INTEGERS, *_ARROW_FLOATS.values()}
_ARROW_TEXT = {"string", "large_string", "string_view", "binary", "large_binary", "binary_view"}


@dataclass(frozen=True, slots=True)
class FiledArray:
    """An array in a file, from its header: dtype, shape, whether it can be mapped, and the file's size and mtime."""

    dtype: str
    shape: tuple[int, ...]
    mapped: bool
    stamp: tuple[int, ...]


def describe(root: Path, path: str, key: str) -> FiledArray:
    """Returns an array's dtype, shape and file stamp. Reads the elements of small compressed arrays only.

    Raises NotTrainableError if there is no data root or pyarrow isn't installed, ForbiddenPathError if the path leads
    out of the data root, InvalidRequestError if the file or key doesn't exist, and InvalidTensorError if the elements
    are neither numbers nor text or their count doesn't match the shape.
    """
    with _open(root, path) as file:
        reader = _Reader.of(path, key, file)
        found = reader.described(_stamp(file))
        dtype = NUMPY_DTYPES[found.dtype]
        if not found.mapped and _bytes(found.shape, dtype) <= COUNTED_BYTES:
            for _ in _counted(reader, found.shape, dtype):
                pass
        return found


def mapped(root: Path, path: str, key: str, stamp: tuple[int, ...]) -> Array:
    """Returns a memory-mapped array. Raises as `describe` does, and InvalidRequestError if the file has changed."""
    with _open(root, path, stamp) as file:
        return _Reader.of(path, key, file).map()


def unpack(root: Path, path: str, key: str, stamp: tuple[int, ...], target: Path) -> None:
    """Unpacks an array to a .npy file, piece by piece. Raises as `mapped` does, and OSError if it can't be written."""
    with _open(root, path, stamp) as file, target.open("wb") as written:
        reader = _Reader.of(path, key, file)
        array = reader.described(())
        header = {"descr": NUMPY_DTYPES[array.dtype].str, "fortran_order": reader.fortran, "shape": array.shape}
        np.lib.format.write_array_header_2_0(written, header)
        for piece in _counted(reader, array.shape, NUMPY_DTYPES[array.dtype]):
            written.write(np.ascontiguousarray(piece).data)


def unpack_text(
    root: Path, path: str, key: str, stamp: tuple[int, ...], write: Callable[[Iterable[bytes]], None]
) -> None:
    """Passes the elements of an array of text to `write`, some at a time. Raises as `mapped` does."""
    with _open(root, path, stamp) as file:
        reader = _Reader.of(path, key, file)
        for piece in _counted(reader, reader.described(()).shape, NUMPY_DTYPES["string"]):
            write(piece.ravel().tolist())


def names(root: Path, path: str) -> list[str]:
    """Returns the keys of a file with several arrays, or the names of its columns. Raises as `describe` does."""
    with _open(root, path) as file:
        return _Reader.names_in(path, file)


def head(root: Path, path: str, key: str, rows: int) -> Array:
    """Returns the first rows of an array. Raises as `describe` does.

    Returns none of a compressed array in column-major order, whose rows are far apart.
    """
    with _open(root, path) as file:
        reader = _Reader.of(path, key, file)
        found = reader.described(())
        if found.mapped:
            return np.array(reader.map()[:rows])
        dtype, inner = NUMPY_DTYPES[found.dtype], found.shape[1:]
        rows = 0 if reader.fortran and len(found.shape) > 1 else min(rows, found.shape[0])
        wanted = rows * math.prod(inner)
        parts: list[Array] = []
        for piece in _counted(reader, found.shape, dtype):
            if wanted <= 0:
                break
            parts.append(piece.ravel()[:wanted])
            wanted -= parts[-1].size
        return np.concatenate(parts or [np.empty(0, dtype)]).reshape(rows, *inner)


def _counted(reader: _Reader, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[Array]:
    """Yields the pieces of an array. Raises InvalidTensorError if they have more or fewer bytes than its shape."""
    expected, got = _bytes(shape, dtype), 0
    pieces = reader.pieces(dtype)
    while True:
        try:
            piece = next(pieces, None)
        except InvalidTensorError:
            raise
        except MemoryError:
            raise
        except Exception as error:  # zipfile, zlib and Arrow raise many kinds of errors for corrupt data
            raise InvalidTensorError(f"{reader.label}: {type(error).__name__}: {error}") from error
        got += 0 if piece is None else piece.nbytes
        if got > expected or (piece is None and got < expected):
            more = "more than " if got > expected else ""
            raise InvalidTensorError(f"{reader.label}: got {more}{min(got, expected)} bytes, expected {expected}")
        if piece is None:
            return
        yield piece


def _bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def check_path(root: str, path: str) -> None:
    """Checks a path without opening it.

    Raises NotTrainableError if the server has no data root, ForbiddenPathError if the path leads out of it, and
    InvalidRequestError if the format isn't supported.
    """
    if not root:
        raise NotTrainableError(f"data file '{path}': this server reads no data files; it has no data root")
    if any(part in ("", ".", "..") for part in path.split("/")) or "\0" in path:
        raise ForbiddenPathError(f"data file '{path}': expected a path below the data root, without '..'")
    suffix = Path(path).suffix
    if suffix not in _READERS:
        raise InvalidRequestError(f"data file '{path}': got {suffix or 'no suffix'}, expected {', '.join(_READERS)}")


# The file.


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


# Readers of the formats.


class _Reader(ABC):
    """Reader of one array of an open file. `fortran` is whether its elements are in column-major order."""

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
        except (InvalidRequestError, NotTrainableError, MemoryError):
            raise
        except Exception as error:  # zipfile, NumPy and Arrow raise many kinds of errors for a corrupt file
            raise InvalidRequestError(f"{label}: {type(error).__name__}: {error}") from error

    @staticmethod
    def names_in(path: str, file: BinaryIO) -> list[str]:
        """Returns the names of all arrays or columns of an open file. Raises as `of` does."""
        label = f"data file '{path}'"
        try:
            return _READERS[Path(path).suffix].names(label, file)
        except (InvalidRequestError, NotTrainableError, MemoryError):
            raise
        except Exception as error:
            raise InvalidRequestError(f"{label}: {type(error).__name__}: {error}") from error

    @staticmethod
    @abstractmethod
    def names(label: str, file: BinaryIO) -> list[str]:
        """Returns the names of the arrays or columns of an open file; [""] for a file with one array."""

    @abstractmethod
    def described(self, stamp: tuple[int, ...]) -> FiledArray:
        """Returns the array's dtype, shape and whether it can be mapped, with this file stamp."""

    @abstractmethod
    def map(self) -> Array:
        """Returns the memory-mapped array."""

    @abstractmethod
    def pieces(self, dtype: np.dtype[Any]) -> Iterator[Array]:
        """Yields all elements in file order, as arrays of this dtype; text as `bytes` objects."""

    def checked_dtype(self, dtype: np.dtype[Any]) -> str:
        name = str(dtype.name)
        if dtype.kind in "SU" and dtype.itemsize:
            return "string"
        if dtype.kind not in "biuf" or name not in NUMPY_DTYPES:
            hint = "; NumPy pickles objects, save text as an array of str" if dtype.kind == "O" else ""
            raise InvalidTensorError(f"{self.label}: got type {dtype}, expected numbers or text{hint}")
        return name


class _Npy(_Reader):
    """Reader of a .npy file."""

    def __init__(self, label: str, key: str, file: BinaryIO) -> None:
        super().__init__(label, key, file)
        if key:
            raise InvalidRequestError(f"{label}: a .npy file has one array, expected no key")
        self._read_header(file)
        self._offset: int | None = file.tell()
        self._source: IO[bytes] = file
        self._check_size(os.fstat(file.fileno()).st_size - self._offset)

    @staticmethod
    def names(label: str, file: BinaryIO) -> list[str]:
        return [""]

    def _read_header(self, file: IO[bytes]) -> None:
        version = np.lib.format.read_magic(file)
        start = file.tell()
        length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
        if length > MAX_HEADER:
            raise InvalidTensorError(f"{self.label}: got a header of {length} bytes, expected at most {MAX_HEADER}")
        file.seek(start)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self._shape, self.fortran, self._dtype = read(file)
        self._name = self.checked_dtype(self._dtype)
        if self._name == "string" and self.fortran and len(self._shape) > 1:
            raise InvalidTensorError(f"{self.label}: got text in column-major order, expected row-major order")
        if len(self._shape) > MAX_AXES or any(length < 0 for length in self._shape):
            shape = self._shape[: MAX_AXES + 1]
            raise InvalidTensorError(
                f"{self.label}: got shape {shape}, expected at most {MAX_AXES} axes of non-negative length"
            )

    def _check_size(self, available: int) -> None:
        """Raises InvalidTensorError if the array has more bytes than its part of the file."""
        if (needed := _bytes(self._shape, self._dtype)) > available:
            raise InvalidTensorError(
                f"{self.label}: the file is shorter than its array: got {max(0, available)} bytes, expected {needed} "
                f"for shape {self._shape}"
            )

    def described(self, stamp: tuple[int, ...]) -> FiledArray:
        return FiledArray(self._name, self._shape, self._offset is not None and self._name != "string", stamp)

    def map(self) -> Array:
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
        size = self._dtype.itemsize
        held = b""
        while data := self._source.read(CHUNK):
            held += data
            whole = len(held) // size * size
            piece = np.frombuffer(held[:whole], self._dtype)
            if self._dtype.kind == "U":
                piece = np.char.encode(piece, "utf-8")
            yield piece.astype(dtype)
            held = held[whole:]


class _Npz(_Npy):
    """Reader of one array of a .npz file."""

    def __init__(self, label: str, key: str, file: BinaryIO) -> None:
        _Reader.__init__(self, label, key, file)
        archive = zipfile.ZipFile(file)
        names = _arrays_in(archive)
        if not key and len(names) != 1:
            raise InvalidRequestError(
                f"{label}: the file has {len(names)} arrays, expected a key: {', '.join(names[:20])}"
            )
        key = key or names[0]
        if key not in names:
            raise InvalidRequestError(f"{label}: {_unknown('key', key, names)}")
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

    @staticmethod
    def names(label: str, file: BinaryIO) -> list[str]:
        return _arrays_in(zipfile.ZipFile(file))


def _arrays_in(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


class _Parquet(_Reader):
    """Reader of columns of a Parquet file: shape (rows,) for one column, (rows, columns) for several."""

    def __init__(self, label: str, key: str, file: BinaryIO) -> None:
        super().__init__(label, key, file)
        self._file = self._opened(label, file)
        known = self._file.schema_arrow.names
        self._columns = key.split(",") if key else known
        for column in self._columns:
            if column not in known:
                raise InvalidRequestError(f"{label}: {_unknown('column', column, known)}")
        self._dtypes = [self._column_dtype(column) for column in self._columns]

    @staticmethod
    def _opened(label: str, file: BinaryIO) -> Any:
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise NotTrainableError(
                f"{label}: Parquet requires pyarrow on the server: pip install 'layerserve[parquet]'"
            ) from None
        return parquet.ParquetFile(file)

    @staticmethod
    def names(label: str, file: BinaryIO) -> list[str]:
        return list(_Parquet._opened(label, file).schema_arrow.names)

    def _column_dtype(self, column: str) -> np.dtype[Any]:
        kind = self._file.schema_arrow.field(column).type
        if str(kind.value_type if str(kind).startswith("dictionary<") else kind) in _ARROW_TEXT:
            return NUMPY_DTYPES["string"]
        # Arrow's `to_pandas_dtype` requires pandas before release 26.
        name = _ARROW_FLOATS.get(str(kind), str(kind))
        if name not in _ARROW_NUMBERS:
            raise InvalidTensorError(f"{self.label}: column '{column}' has type {kind}, expected numbers or text")
        return np.dtype(name)

    def map(self) -> Array:
        raise InvalidRequestError(f"{self.label}: a Parquet file can't be mapped")

    def described(self, stamp: tuple[int, ...]) -> FiledArray:
        rows = self._file.metadata.num_rows
        shape = (rows,) if len(self._columns) == 1 else (rows, len(self._columns))
        kinds = [dtype.kind for dtype in self._dtypes]
        if "O" in kinds and set(kinds) != {"O"}:
            raise InvalidTensorError(f"{self.label}: got columns of numbers and of text, expected one kind; give a key")
        name = "string" if "O" in kinds else self.checked_dtype(np.result_type(*self._dtypes))
        return FiledArray(name, shape, False, stamp)

    def pieces(self, dtype: np.dtype[Any]) -> Iterator[Array]:
        for batch in self._file.iter_batches(batch_size=8192, columns=self._columns):
            for name in self._columns:
                if batch.column(name).null_count:
                    raise InvalidTensorError(f"{self.label}: column '{name}' has nulls, expected none")
            if dtype.kind == "O":
                yield from self._text_pieces([batch.column(name) for name in self._columns])
                continue
            columns = [batch.column(name).to_numpy(zero_copy_only=False).astype(dtype) for name in self._columns]
            yield columns[0] if len(columns) == 1 else np.stack(columns, axis=-1)

    def _text_pieces(self, columns: Sequence[Any]) -> Iterator[Array]:
        """Yields the elements row by row, CHUNK bytes at a time: a dictionary may hold one long text for all rows."""
        texts, size = [], 0
        for row in range(len(columns[0])):
            for column in columns:
                text = column[row].as_py()
                texts.append(text.encode() if isinstance(text, str) else text)
                size += len(texts[-1])
            if size >= CHUNK:
                yield _objects(texts)
                texts, size = [], 0
        yield _objects(texts)


def _objects(texts: Sequence[bytes]) -> Array:
    held = np.empty(len(texts), object)
    held[:] = texts
    return held


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    # Imported here, since layergraph imports torch, which not all processes that import this module need.
    from layergraph.errors import unknown_name

    return unknown_name(kind, name, known)


_READERS: dict[str, type[_Reader]] = {".npy": _Npy, ".npz": _Npz, ".parquet": _Parquet}
