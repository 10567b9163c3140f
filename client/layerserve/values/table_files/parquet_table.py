"""Columns of Parquet files: numbers, text, dates, decimals, categories, and lists of one length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from layerserve.errors import InvalidTensor
from layerserve.values.table_files.arrow_columns import ArrowColumn
from layerserve.values.table_files.table import (
    FileArray,
    Selection,
    Table,
    joined,
    pyarrow_module,
    rows_in_piece,
    text_pieces,
)
from layerserve.values.tensors import NUMPY_DTYPES, Array

#: Maximum number of rows that are decoded at once.
MAX_ROWS = 8192


class ParquetTable(Table):
    """An open Parquet file."""

    def __init__(self, label: str, file: BinaryIO, metadata: Any = None) -> None:
        """Reads the file's schema, unless its `metadata` is known.

        Raises MissingPackageError without pyarrow, and pyarrow's errors.
        """
        super().__init__(label)
        self._file = pyarrow_module("pyarrow.parquet", label).ParquetFile(file, metadata=metadata, pre_buffer=True)
        self._schema = self._file.schema_arrow
        self.names = self._schema.names

    @property
    def metadata(self) -> Any:
        """What the file says of its row groups, as pyarrow's object."""
        return self._file.metadata

    def described(self, selections: Sequence[Selection]) -> list[FileArray]:
        return [self._described(selection) for selection in selections]

    def _described(self, selection: Selection) -> FileArray:
        columns = self.chosen(selection)
        found = [self._column(column, selection.text, selection.fill) for column in columns]
        rows = self._file.metadata.num_rows
        for column in found:
            column.check_fill()
        lengths = [self._lengths(column) if column.is_list else () for column in found]
        if len(columns) > 1 and any(column.is_list for column in found):
            raise InvalidTensor(f"{self.label}: got several columns, some of lists, expected one column of lists")
        dtype = self.joined_dtype(columns, [column.dtype for column in found])
        shape = (rows, *(lengths[0] if len(columns) == 1 else (len(columns),)))
        return FileArray(dtype, shape, columns, selection.fill)

    def _column(self, name: str, text: bool | None, fill: str | None, label: str = "") -> ArrowColumn:
        return ArrowColumn(label or self.label, name, self._schema.field(name).type, text, fill)

    def _lengths(self, column: ArrowColumn) -> tuple[int, ...]:
        """Returns the lengths of a column's lists: those of its first row."""
        for batch in self._file.iter_batches(batch_size=1, columns=[column.name]):
            return column.lengths(batch.column(0))
        return column.lengths(None)

    def pieces(self, arrays: Sequence[FileArray]) -> Iterator[tuple[int, Array]]:
        # One after another: the columns of a Parquet file lie apart.
        for index, array in enumerate(arrays):
            for piece in self._pieces(array):
                yield index, piece

    def _pieces(self, array: FileArray) -> Iterator[Array]:
        row = 0
        for group in range(self._file.metadata.num_row_groups):
            yield from self.group_pieces(array, group, row)
            row += self._file.metadata.row_group(group).num_rows

    def group_pieces(self, array: FileArray, group: int, row: int) -> Iterator[Array]:
        """Yields the rows of a described array in a row group, before which the file has `row` rows.

        Raises InvalidTensor for fields that can't be read.
        """
        label = f"{self.label}, row group {group}"
        columns = [self._column(column, array.is_text, array.fill, label) for column in array.columns]
        size = min(MAX_ROWS, rows_in_piece(array.shape))
        for batch in group_batches(self._file, group, array.columns, size):
            held = [batch.column(batch.schema.get_field_index(name)) for name in array.columns]
            if array.is_text:
                yield from text_pieces([c.texts(h, row) for c, h in zip(columns, held, strict=True)])
            else:
                dtype = NUMPY_DTYPES[array.dtype]
                rest = array.shape[1:] if columns[0].is_list else ()
                yield joined(
                    [c.numbers(h, row, rest).astype(dtype, copy=False) for c, h in zip(columns, held, strict=True)]
                )
            row += batch.num_rows


def group_batches(
    file: Any, group: int, columns: Sequence[str], rows: int, *, use_threads: bool = True
) -> Iterator[Any]:
    """Yields the rows of a row group of pyarrow's `ParquetFile` as record batches of some columns, at most `rows` each.

    Raises InvalidTensor if there are fewer rows than the file says, and pyarrow's errors, also for damaged text.
    """
    left = int(file.metadata.row_group(group).num_rows)
    for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=list(columns), use_threads=use_threads):
        batch.validate(full=True)
        left -= batch.num_rows
        yield batch
    if left:
        raise InvalidTensor("the row group has fewer rows than it says")
