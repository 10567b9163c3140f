"""Writers of results: batches of Arrow to a file of one kind."""

from __future__ import annotations

import io
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow
from pyarrow import compute, csv, parquet

from layerserve.errors import InvalidArgument
from layerserve.scoring.files.locations import Location

#: Size of a row group, in bytes and rows: what is in memory at a time.
_GROUP_BYTES = 32 << 20
_GROUP_ROWS = 1 << 17
#: What joined files are copied by.
_COPIED = 8 << 20


class Writer(ABC):
    """Writes batches of one schema."""

    @abstractmethod
    def write(self, batch: Any) -> None:
        """Adds rows."""

    @abstractmethod
    def close(self) -> None:
        """Writes what is left. The file stays open."""

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        # After an error, too: the file isn't read any more, but Arrow would write to it later.
        self.close()


def writer(kind: str, file: BinaryIO, schema: Any, *, header: bool = True) -> Writer:
    """Returns a writer. Raises InvalidArgument for columns that the kind can't hold."""
    if kind == "parquet":
        return ParquetWriter(file, schema)
    return CsvWriter(file, schema, header=header) if kind == "csv" else NpzWriter(file, schema)


class ParquetWriter(Writer):
    """Writes a Parquet file."""

    def __init__(self, file: BinaryIO, schema: Any) -> None:
        # Looking for equal numbers would take as long as a small model.
        texts = [one.name for one in schema if _may_repeat(one.type)]
        self._writer = parquet.ParquetWriter(file, schema, use_dictionary=texts or False)
        self._schema = schema
        self._held: list[Any] = []
        self._rows = self._bytes = 0

    def write(self, batch: Any) -> None:
        self._held.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.get_total_buffer_size()
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pyarrow.Table.from_batches(self._held, self._schema), self._rows)
        self._held, self._rows, self._bytes = [], 0, 0

    def close(self) -> None:
        self._flush()
        self._writer.close()


def _may_repeat(kind: Any) -> bool:
    types = pyarrow.types
    return bool(types.is_dictionary(kind) or types.is_string(kind) or types.is_large_string(kind))


class CsvWriter(Writer):
    """Writes a CSV file. A column of lists becomes a column for each element: scores_0, scores_1, ..."""

    def __init__(self, file: BinaryIO, schema: Any, *, header: bool) -> None:
        empty = pyarrow.RecordBatch.from_arrays([pyarrow.array([], one.type) for one in schema], schema=schema)
        options = csv.WriteOptions(include_header=header, quoting_style="needed")
        self._writer = csv.CSVWriter(file, _flat(empty).schema, write_options=options)

    def write(self, batch: Any) -> None:
        self._writer.write_batch(_flat(batch))

    def close(self) -> None:
        self._writer.close()


def _flat(batch: Any) -> Any:
    """Returns a batch without lists and dictionaries."""
    names, arrays = [], []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        for flat_name, array in _plain_columns(name, column):
            names.append(flat_name)
            arrays.append(array)
    return pyarrow.RecordBatch.from_arrays(arrays, names=names)


def _plain_columns(name: str, column: Any) -> list[tuple[str, Any]]:
    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        column = column.dictionary_decode()
    elif pyarrow.types.is_fixed_size_list(kind):
        several = []
        for at in range(kind.list_size):
            several += _plain_columns(f"{name}_{at}", compute.list_element(column, at))
        return several
    elif pyarrow.types.is_nested(kind) or isinstance(kind, pyarrow.BaseExtensionType):
        raise InvalidArgument(f"OUT: column {name!r} has type {kind}, which CSV can't hold; write Parquet")
    elif pyarrow.types.is_float16(kind):
        column = column.cast(pyarrow.float32())
    return [(name, column)]


class NpzWriter(Writer):
    """Writes an `.npz` file, which is in memory until then."""

    def __init__(self, file: BinaryIO, schema: Any) -> None:
        self._file = file
        self._schema = schema
        self._held: list[Any] = []
        for field in schema:
            _to_numpy(pyarrow.array([], field.type), field.name)

    def write(self, batch: Any) -> None:
        self._held.append(batch)

    def close(self) -> None:
        table = pyarrow.Table.from_batches(self._held, self._schema).combine_chunks()
        arrays = {}
        for name, column in zip(table.schema.names, table.columns, strict=True):
            whole = column.chunk(0) if column.num_chunks else pyarrow.array([], column.type)
            arrays[name] = _to_numpy(whole, name)
        facts = {key.decode(): value.decode() for key, value in (self._schema.metadata or {}).items()}
        _write_npz(self._file, {**arrays, **{key: np.array(value) for key, value in facts.items()}})


def _write_npz(file: BinaryIO, arrays: dict[str, Any]) -> None:
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            # Without the time of day: equal rows make equal files.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(
                    member, np.ascontiguousarray(array) if array.ndim else array, allow_pickle=False
                )


def _to_numpy(column: Any, name: str) -> Any:
    """Returns a column as an array. Raises InvalidArgument for what has no dtype, and for missing values."""
    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        return _to_numpy(column.dictionary_decode(), name)
    if column.null_count:
        raise InvalidArgument(f"OUT: column {name!r} has missing values (null), which .npz can't hold; write Parquet")
    if pyarrow.types.is_fixed_size_list(kind):
        flat = _to_numpy(column.flatten(), name)
        return flat.reshape(len(column), kind.list_size, *flat.shape[1:])
    types = pyarrow.types
    if types.is_string(kind) or types.is_large_string(kind):
        return _padded(column.to_pylist(), "U", name)
    if types.is_binary(kind) or types.is_large_binary(kind):
        return _padded(column.to_pylist(), "S", name)
    without_dtype = (types.is_nested, types.is_decimal, types.is_time, types.is_null)
    if isinstance(kind, pyarrow.BaseExtensionType) or any(of(kind) for of in without_dtype):
        raise InvalidArgument(f"OUT: column {name!r} has type {kind}, which .npz can't hold; write Parquet")
    return column.to_numpy(zero_copy_only=False)


def _padded(values: list[Any], dtype: str, name: str) -> Any:
    """Returns text or bytes as an array, whose elements NumPy fills with null characters to one length."""
    array = np.array(values, dtype)
    if array.tolist() != values:
        raise InvalidArgument(
            f"OUT: column {name!r} has values that end with a null character, which .npz can't hold; write Parquet"
        )
    return array


def join(kind: str, parts: Sequence[Location], file: BinaryIO) -> None:
    """Writes the rows of several files of one kind to one."""
    if kind == "csv":
        for part in parts:
            with part.open() as opened:
                while content := opened.read(_COPIED):
                    file.write(content)
        return
    if kind == "npz":
        _join_npz(parts, file)
        return
    made: Any = None
    for part in parts:
        with part.open() as opened, parquet.ParquetFile(opened) as read:
            made = made or parquet.ParquetWriter(file, read.schema_arrow)
            for group in range(read.num_row_groups):
                table = read.read_row_group(group, use_threads=False)
                made.write_table(table, max(1, table.num_rows))
    made.close()


def _join_npz(parts: Sequence[Location], file: BinaryIO) -> None:
    loaded = [np.load(io.BytesIO(part.read()), allow_pickle=False) for part in parts]
    _write_npz(
        file,
        {
            # What isn't rows is about the model.
            name: np.concatenate([one[name] for one in loaded]) if loaded[0][name].ndim else loaded[0][name]
            for name in loaded[0].files
        },
    )
