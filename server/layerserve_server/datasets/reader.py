"""Reading of an open data file: descriptions of its arrays, and their elements, mapped or piece by piece.

Headers aren't trusted: the elements are counted where they are read, and of a compressed array and of columns of text
also when they are described, unless there are many. `describe` has to run in a separate process with limits on memory
and time: parsers of Parquet and zip files allocate what a file declares.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any, BinaryIO, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from layerserve.errors import InvalidArgument, InvalidTensor
from layerserve.values.table_files.formats import FORMATS, open_table
from layerserve.values.table_files.table import MissingPackageError, Selection, Table, TableArray
from layerserve.values.tensors import NUMPY_DTYPES

from layerserve_server.datasets.filed_array import FiledArray, size, stamp
from layerserve_server.datasets.npy_files import NpyReader, NpzReader, names_in
from layerserve_server.errors import InvalidRequestError, InvalidTensorError, NotTrainableError, ServerError

Array = npt.NDArray[Any]

#: Maximum size of a compressed array, in bytes of its elements, that is unpacked to check that it is complete.
COUNTED_BYTES = 256 << 20
_READERS: dict[str, type[NpyReader]] = {".npy": NpyReader, ".npz": NpzReader}
#: Suffixes of data files.
SUFFIXES = (*_READERS, *FORMATS)


class Sink(Protocol):
    """What takes the elements of an array, in order."""

    #: Whether the elements come in column-major order. Set before the first of them.
    fortran: bool

    def write(self, piece: Array) -> None: ...


#: An array to unpack: what is read of the file, its dtype and shape, and what takes it.
Unpacking: TypeAlias = tuple[Selection, str, tuple[int, ...], Sink]


def check_suffix(name: str) -> None:
    """Raises InvalidRequestError if a file's name doesn't have the suffix of a supported format."""
    suffix = PurePath(name).suffix
    if suffix not in SUFFIXES:
        raise InvalidRequestError(f"data file '{name}': got {suffix or 'no suffix'}, expected {', '.join(SUFFIXES)}")


def names(file: BinaryIO, name: str) -> list[str]:
    """Returns the names of the arrays of a .npz file, or of the columns of a table. Raises as `describe` does."""
    if PurePath(name).suffix in FORMATS:
        return list(_table(file, name).names)
    try:
        return names_in(zipfile.ZipFile(file))
    except MemoryError:
        raise
    except Exception as error:  # zipfile raises many kinds of errors for a corrupt file
        raise InvalidRequestError(f"{_label(name)}: {type(error).__name__}: {error}") from error


def describe(file: BinaryIO, name: str, selections: Sequence[Selection]) -> list[FiledArray]:
    """Returns dtype, shape and columns of arrays. `name` is the file's name, whose suffix is its format.

    Of a .npz file, a selection's key, or else its only column, is the name of the array. Raises NotTrainableError if
    pyarrow isn't installed, InvalidRequestError if the file doesn't have what is selected, and InvalidTensorError if
    elements are neither numbers nor text, or aren't as many as the shape says.
    """
    held = stamp(file)
    if PurePath(name).suffix in FORMATS:
        table = _table(file, name)
        with _refusing(name):
            found = table.described(selections)
        if not table.reads_all_when_described:
            small = [array for array in found if size(array.shape, NUMPY_DTYPES[array.dtype]) <= COUNTED_BYTES]
            _count(name, table, small)
        return [FiledArray(array.dtype, array.shape, False, held, array.columns) for array in found]
    return [_described(file, name, selection, held) for selection in selections]


def _described(file: BinaryIO, name: str, selection: Selection, held: tuple[int, ...]) -> FiledArray:
    reader = _reader(file, name, selection)
    found = reader.described(held)
    dtype = NUMPY_DTYPES[found.dtype]
    if not found.mapped and size(found.shape, dtype) <= COUNTED_BYTES:
        for _ in _counted(reader.label, reader.pieces(dtype), found.shape, dtype):
            pass
    return found


def mapped(file: BinaryIO, name: str, selection: Selection) -> Array:
    """Returns a memory-mapped array of a .npy or .npz file. Raises as `describe` does."""
    if PurePath(name).suffix in FORMATS:
        raise InvalidRequestError(f"{_label(name)}: columns can't be mapped")
    return _reader(file, name, selection).map()


def unpack(file: BinaryIO, name: str, arrays: Sequence[Unpacking]) -> None:
    """Passes the elements of described arrays to their sinks, piece by piece, in one pass.

    Text is in object arrays of `bytes`. Raises as `describe` does, and the errors of the sinks.
    """
    if PurePath(name).suffix not in FORMATS:
        for selection, dtype, shape, sink in arrays:
            reader = _reader(file, name, selection)
            sink.fortran = reader.fortran
            for piece in _counted(reader.label, reader.pieces(NUMPY_DTYPES[dtype]), shape, NUMPY_DTYPES[dtype]):
                sink.write(piece)
        return
    table = _table(file, name)
    with _refusing(name):
        wanted = [TableArray(dtype, shape, table.chosen(one), one.fill) for one, dtype, shape, _ in arrays]
    _count(name, table, wanted, [sink for *_, sink in arrays])


def _table(file: BinaryIO, name: str) -> Table:
    with _refusing(name):
        return open_table(file, PurePath(name).suffix, _label(name))


def _count(name: str, table: Table, arrays: Sequence[TableArray], sinks: Sequence[Sink] | None = None) -> None:
    """Reads arrays, into their sinks if any. Raises InvalidTensorError for another number of elements than declared."""
    expected = [math.prod(array.shape) for array in arrays]
    counts = [0] * len(arrays)
    pieces = table.pieces(arrays)
    while True:
        with _refusing(name):
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
            raise InvalidTensorError(f"{_label(name)}, {columns}: got {got} elements, expected {count}")


def _label(name: str) -> str:
    return f"data file '{name}'"


def _reader(file: BinaryIO, name: str, selection: Selection) -> NpyReader:
    if len(selection.columns) > 1 or selection.fill is not None:
        what = "several columns" if len(selection.columns) > 1 else "fill"
        raise InvalidRequestError(f"{_label(name)}: got {what}, expected none for a {PurePath(name).suffix} file")
    key = selection.key or "".join(selection.columns)
    label = _label(name) + (f", '{key}'" if key else "")
    try:
        return _READERS[PurePath(name).suffix](label, key, file)
    except (ServerError, MemoryError, SystemError):
        raise
    except Exception as error:  # zipfile and NumPy raise many kinds of errors for a corrupt file
        raise InvalidRequestError(f"{label}: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turns the errors of tables, and of pyarrow, into the server's."""
    try:
        yield
    except (MemoryError, SystemError):
        raise
    except MissingPackageError as error:
        raise NotTrainableError(str(error).replace("requires pyarrow", "requires pyarrow on the server")) from None
    except InvalidTensor as error:
        raise InvalidTensorError(str(error)) from error
    except InvalidArgument as error:
        raise InvalidRequestError(str(error)) from error
    except Exception as error:  # Arrow raises many kinds of errors for corrupt data
        raise InvalidTensorError(f"{_label(name)}: {type(error).__name__}: {error}") from error


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
