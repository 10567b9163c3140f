"""The row groups of a Parquet file, or of all Parquet files in a folder: described together, read one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from layerserve.values.table_files.arrow_columns import ArrowColumn
from layerserve.values.table_files.parquet_table import ParquetTable
from layerserve.values.table_files.table import FileArray, Selection
from layerserve.values.tensors import NUMPY_DTYPES

from layerserve_server.datasets.data_file import DataFile
from layerserve_server.datasets.refusing import refusing
from layerserve_server.errors import ForbiddenPathError, InvalidRequestError, InvalidTensorError, TooLargeError

if TYPE_CHECKING:
    # They import torch, which processes that describe files don't need.
    from layergraph.training.mapped_text import MappedText
    from layergraph.training.row_groups import GroupedArray

Array = npt.NDArray[Any]

#: Maximum memory of a row group, in bytes: it is read as a whole.
MAX_GROUP_BYTES = 2 << 30
#: Number of files of a store whose ends, which describe them, are read at the same time.
OPENED_TOGETHER = 16


@dataclass(frozen=True, slots=True)
class _Group:
    """A row group: its file and its number in it, and the number of rows in the file before it."""

    file: DataFile
    metadata: Any
    number: int
    before: int

    @property
    def rows(self) -> int:
        return int(self.metadata.row_group(self.number).num_rows)

    @property
    def label(self) -> str:
        return f"{self.file.label}, row group {self.number}"


class ParquetData:
    """The row groups of a file or folder, in the order of its files. Attribute `file` is that file, with its stamp."""

    def __init__(self, file: DataFile) -> None:
        """Reads the ends of all files, which describe them. Raises as `DataFile.opened` and `reader.describe` do."""
        if file.is_folder:
            self.file, self._files = file.parts()
        else:
            with file.opened() as held:
                self.file = file.stamped(held)
            self._files = [self.file]
        if file.in_store:
            with ThreadPoolExecutor(OPENED_TOGETHER) as pool:
                self._metadata = list(pool.map(_metadata, self._files))
        else:
            self._metadata = [_metadata(one) for one in self._files]

    @property
    def files(self) -> list[tuple[DataFile, int]]:
        """All files, with the number of their rows."""
        return [(file, metadata.num_rows) for file, metadata in zip(self._files, self._metadata, strict=True)]

    def described(self, selections: Sequence[Selection]) -> list[FileArray]:
        """Returns the arrays of selections, with the rows of all files.

        Raises InvalidRequestError if a file lacks a column, and InvalidTensorError if elements are neither numbers nor
        text, or if files have them of different types.
        """
        with_rows = [place for place, metadata in enumerate(self._metadata) if metadata.num_rows]
        first = (with_rows or [0])[0]
        with refusing(self._files[first].label), self._files[first].opened() as held:
            table = ParquetTable(self._files[first].label, held, self._metadata[first])
            arrays = table.described(selections)
        # Files without rows have no types that mean something.
        for file, metadata in zip(self._files, self._metadata, strict=True):
            if metadata.num_rows:
                _check_columns(file, metadata.schema.to_arrow_schema(), arrays, self._files[first])
        rows = sum(metadata.num_rows for metadata in self._metadata)
        found = [replace(array, shape=(rows, *array.shape[1:])) for array in arrays]
        for group in self._groups():
            size = _size(group, found)
            if size > MAX_GROUP_BYTES:
                raise TooLargeError(
                    f"{group.label}: got {size} bytes of {group.rows} rows, expected at most {MAX_GROUP_BYTES}; write "
                    "the file with smaller row groups"
                )
        return found

    def grouped(self, arrays: Sequence[FileArray]) -> list[GroupedArray]:
        """Returns described arrays, whose row groups are read when their rows are taken.

        Reading them raises as `DataFile.opened` does, InvalidTensorError for elements that can't be read, TooLargeError
        for too much text, and OSError.
        """
        from layergraph.training.row_groups import GroupedArray, GroupedRows

        groups = self._groups()
        rows = [group.rows for group in groups]
        if any(array.shape[0] != sum(rows) for array in arrays):
            raise InvalidTensorError(f"{self.file.label}: got {sum(rows)} rows, expected {arrays[0].shape[0]}")
        source = GroupedRows(rows, [_size(group, arrays) for group in groups], lambda n: _read(groups[n], arrays))
        return [
            GroupedArray(source, place, array.shape, NUMPY_DTYPES[array.dtype]) for place, array in enumerate(arrays)
        ]

    def _groups(self) -> list[_Group]:
        found: list[_Group] = []
        for file, metadata in zip(self._files, self._metadata, strict=True):
            before = 0
            for number in range(metadata.num_row_groups):
                group = _Group(file, metadata, number, before)
                before += group.rows
                if group.rows:
                    found.append(group)
        return found


def _metadata(file: DataFile) -> Any:
    """Returns what the end of a file says of it."""
    with refusing(file.label), file.opened() as held:
        return ParquetTable(file.label, held).metadata


def _check_columns(file: DataFile, schema: Any, arrays: Sequence[FileArray], first: DataFile) -> None:
    """Raises InvalidRequestError if a file lacks columns of arrays that the first one has, or has another type there.

    `schema` is Arrow's.
    """
    missing = [name for array in arrays for name in array.columns if name not in schema.names]
    if missing:
        raise InvalidRequestError(
            f"{file.label}: got columns {', '.join(schema.names[:20])}; expected {', '.join(missing[:20])}, too, as in "
            f"{first.label}"
        )
    for array in arrays:
        columns = [
            ArrowColumn(file.label, name, schema.field(name).type, array.is_text, array.fill) for name in array.columns
        ]
        kinds = [column.dtype for column in columns]
        if str(np.result_type(*(NUMPY_DTYPES[kind] for kind in kinds))) != str(NUMPY_DTYPES[array.dtype]):
            raise InvalidTensorError(
                f"{file.label}, columns {', '.join(array.columns[:20])}: got {', '.join(kinds[:20])}, expected "
                f"{array.dtype}, as in {first.label}"
            )
        if columns[0].is_list != (len(columns) == 1 and len(array.shape) > 1):
            raise InvalidTensorError(f"{file.label}, column '{columns[0].name}': got other lists than in {first.label}")


def _size(group: _Group, arrays: Sequence[FileArray]) -> int:
    """Returns the memory of a row group, in bytes. That of text isn't known before it is read."""
    size = sum(
        group.rows * math.prod(array.shape[1:]) * (8 if array.is_text else NUMPY_DTYPES[array.dtype].itemsize)
        for array in arrays
    )
    about = group.metadata.row_group(group.number)
    texts = {name for array in arrays if array.is_text for name in array.columns}
    for number in range(about.num_columns if texts else 0):
        chunk = about.column(number)
        if chunk.path_in_schema.partition(".")[0] in texts:
            size += chunk.total_uncompressed_size
    return size


def _read(group: _Group, arrays: Sequence[FileArray]) -> list[Array | MappedText]:
    try:
        with refusing(group.label), group.file.opened() as held:
            table = ParquetTable(group.file.label, held, group.metadata)
            found = [_whole(table, group, array) for array in arrays]
            # A file may be written to where it lies.
            group.file.check_unchanged(held)
            return found
    except (InvalidTensorError, TooLargeError):
        raise
    except (InvalidRequestError, ForbiddenPathError) as error:
        raise type(error)(f"{error}; row group {group.number} can't be read") from error


def _whole(table: ParquetTable, group: _Group, array: FileArray) -> Array | MappedText:
    """Returns a row group of an array."""
    shape = (group.rows, *array.shape[1:])
    pieces = table.group_pieces(array, group.number, group.before)
    if array.is_text:
        return _text(group, pieces, shape)
    found = np.empty(shape, NUMPY_DTYPES[array.dtype])
    start = 0
    for piece in pieces:
        found[start : start + len(piece)] = piece
        start += len(piece)
    _check_rows(group, start)
    return found


def _text(group: _Group, pieces: Any, shape: tuple[int, ...]) -> MappedText:
    from layergraph.training.mapped_text import MappedText

    parts: list[MappedText] = []
    size = 0
    for piece in pieces:
        size += sum(map(len, piece))
        if size > MAX_GROUP_BYTES:
            raise TooLargeError(
                f"{group.label}: got more than {MAX_GROUP_BYTES} bytes of text, expected smaller row groups"
            )
        parts.append(MappedText.of(piece.tolist(), (len(piece),)))
    count = sum(map(len, parts))
    _check_rows(group, count // max(1, math.prod(shape[1:])))
    return MappedText.joined(parts).reshape(shape) if parts else MappedText.of([], shape)


def _check_rows(group: _Group, got: int) -> None:
    if got != group.rows:
        raise InvalidTensorError(f"{group.label}: got {got} rows, expected {group.rows}")
