"""Reading of data files: descriptions of their arrays, and their elements, mapped or piece by piece.

Headers aren't trusted: the elements are counted where they are read, and of a compressed array and of columns of text
also when they are described, unless there are many. `describe` has to run in a separate process with limits on memory
and time: parsers of Parquet and zip files allocate what a file declares.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
from layerserve.values.table_files.formats import open_table
from layerserve.values.table_files.table import FileArray, Selection, Table
from layerserve.values.tensors import NUMPY_DTYPES

from layerserve_server.datasets.data_file import DataFile
from layerserve_server.datasets.data_store import StoreReadError
from layerserve_server.datasets.npy_files import NpyReader, NpzReader, names_in, size
from layerserve_server.datasets.parquet_data import ParquetData
from layerserve_server.datasets.refusing import refusing
from layerserve_server.errors import InvalidRequestError, InvalidTensorError, ServerError, UnavailableError

Array = npt.NDArray[Any]

#: Maximum size of a compressed array, in bytes of its elements, that is unpacked to check that it is complete.
COUNTED_BYTES = 256 << 20
_READERS: dict[str, type[NpyReader]] = {".npy": NpyReader, ".npz": NpzReader}


class Sink(Protocol):
    """What takes the elements of an array, in order."""

    #: Whether the elements come in column-major order. Set before the first of them.
    fortran: bool

    def write(self, piece: Array) -> None: ...


def names(file: DataFile) -> list[str]:
    """Returns the names of the arrays of a .npz file, or of the columns of a table. Raises as `describe` does."""
    with file.opened() as held:
        if file.is_table:
            return list(_table(held, file).names)
        try:
            return names_in(zipfile.ZipFile(held))
        except MemoryError:
            raise
        except Exception as error:  # zipfile raises many kinds of errors for a corrupt file
            raise InvalidRequestError(f"{file.label}: {type(error).__name__}: {error}") from error


def describe(file: DataFile, selections: Sequence[Selection]) -> tuple[DataFile, list[FileArray]]:
    """Returns the file with its stamp, and the arrays of selections, in one pass.

    Of a .npz file, a selection's key, or else its only column, is the name of the array. Raises as `DataFile.opened`
    does, NotTrainableError if pyarrow isn't installed, InvalidRequestError if the file doesn't have what is selected,
    InvalidTensorError if elements are neither numbers nor text, or aren't as many as the shape says, and
    UnavailableError if a store can't be read.
    """
    if file.is_parquet:
        try:
            return _described_groups(file, selections)
        except StoreReadError as error:
            raise UnavailableError(str(error.strerror)) from error
    with file.opened() as held:
        stamped = file.stamped(held)
        if not file.is_table:
            return stamped, [_described(held, file, selection) for selection in selections]
        table = _table(held, file)
        with refusing(file.label):
            found = table.described(selections)
        if not table.reads_all_when_described:
            small = [array for array in found if size(array.shape, NUMPY_DTYPES[array.dtype]) <= COUNTED_BYTES]
            _count(file, table, small)
        return stamped, found


def _described_groups(file: DataFile, selections: Sequence[Selection]) -> tuple[DataFile, list[FileArray]]:
    """Describes arrays of Parquet files. Those that are small are also read, to check their elements."""
    data = ParquetData(file)
    found = data.described(selections)
    small = [array for array in found if size(array.shape, NUMPY_DTYPES[array.dtype]) <= COUNTED_BYTES]
    for one, rows in data.files if small else ():
        if not rows:
            continue
        with one.opened() as held:
            arrays = [replace(array, shape=(rows, *array.shape[1:])) for array in small]
            _count(one, _table(held, one), arrays)
    return data.file, found


def describe_all(wanted: Sequence[tuple[DataFile, Selection]]) -> list[tuple[DataFile, FileArray]]:
    """Describes arrays in several files, each of which is read once. Raises as `describe` does."""
    of_file: dict[DataFile, list[int]] = {}
    for index, (file, _) in enumerate(wanted):
        of_file.setdefault(file, []).append(index)
    found: dict[int, tuple[DataFile, FileArray]] = {}
    for file, places in of_file.items():
        stamped, arrays = describe(file, [wanted[place][1] for place in places])
        found.update((place, (stamped, array)) for place, array in zip(places, arrays, strict=True))
    return [found[index] for index in range(len(wanted))]


def _described(held: BinaryIO, file: DataFile, selection: Selection) -> FileArray:
    if len(selection.columns) > 1 or selection.fill is not None:
        what = "several columns" if len(selection.columns) > 1 else "fill"
        raise InvalidRequestError(f"{file.label}: got {what}, expected none for a {file.suffix} file")
    reader = _reader(held, file, selection.key or "".join(selection.columns))
    found = reader.described()
    dtype = NUMPY_DTYPES[found.dtype]
    if not found.mapped and size(found.shape, dtype) <= COUNTED_BYTES:
        for _ in _counted(reader.label, reader.pieces(dtype), found.shape, dtype):
            pass
    return found


def mapped(file: DataFile, array: FileArray) -> Array:
    """Returns a memory-mapped array of a .npy or .npz file. Raises as `describe` does."""
    if file.is_table:
        raise InvalidRequestError(f"{file.label}: columns can't be mapped")
    with file.opened() as held:
        return _reader(held, file, "".join(array.columns)).map()


def unpack(file: DataFile, arrays: Sequence[tuple[FileArray, Sink]]) -> None:
    """Passes the elements of described arrays to their sinks, piece by piece, in one pass.

    Text is in object arrays of `bytes`. Raises as `describe` does, and the errors of the sinks.
    """
    with file.opened() as held:
        if file.is_table:
            _count(file, _table(held, file), [array for array, _ in arrays], [sink for _, sink in arrays])
            return
        for array, sink in arrays:
            reader, dtype = _reader(held, file, "".join(array.columns)), NUMPY_DTYPES[array.dtype]
            sink.fortran = reader.fortran
            for piece in _counted(reader.label, reader.pieces(dtype), array.shape, dtype):
                sink.write(piece)


def _table(held: BinaryIO, file: DataFile) -> Table:
    with refusing(file.label):
        return open_table(held, file.suffix, file.label)


def _count(file: DataFile, table: Table, arrays: Sequence[FileArray], sinks: Sequence[Sink] | None = None) -> None:
    """Reads arrays, into their sinks if any. Raises InvalidTensorError for another number of elements than declared."""
    expected = [math.prod(array.shape) for array in arrays]
    counts = [0] * len(arrays)
    pieces = table.pieces(arrays)
    while True:
        with refusing(file.label):
            index, piece = next(pieces, (-1, None))
        if piece is None:
            break
        counts[index] += piece.size
        if counts[index] > expected[index]:
            break
        if sinks is not None:
            sinks[index].write(piece)
    for array, got, count in zip(arrays, counts, expected, strict=True):
        if got != count:
            columns = ", ".join(array.columns[:20])
            raise InvalidTensorError(f"{file.label}, {columns}: got {got} elements, expected {count}")


def _reader(held: BinaryIO, file: DataFile, key: str) -> NpyReader:
    label = file.label + (f", '{key}'" if key else "")
    try:
        return _READERS[file.suffix](label, key, held)
    except (ServerError, MemoryError, SystemError):
        raise
    except Exception as error:  # zipfile and NumPy raise many kinds of errors for a corrupt file
        raise InvalidRequestError(f"{label}: {type(error).__name__}: {error}") from error


def _counted(label: str, pieces: Iterator[Array], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[Array]:
    """Yields the pieces of an array. Raises InvalidTensorError if they have more or fewer bytes than its shape."""
    expected, got = size(shape, dtype), 0
    while True:
        try:
            piece = next(pieces, None)
        except (InvalidTensorError, MemoryError):
            raise
        except Exception as error:  # zipfile and zlib raise many kinds of errors for corrupt data
            raise InvalidTensorError(f"{label}: {type(error).__name__}: {error}") from error
        got += 0 if piece is None else piece.nbytes
        if got > expected or (piece is None and got < expected):
            more = "more than " if got > expected else ""
            raise InvalidTensorError(f"{label}: got {more}{min(got, expected)} bytes, expected {expected}")
        if piece is None:
            return
        yield piece
