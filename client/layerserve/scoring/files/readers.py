"""Readers of fragments: batches of Arrow, of at most so many rows, whatever the size of a fragment."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO, cast

import numpy as np

from layerserve.errors import InvalidArgument, LayerserveError
from layerserve.scoring.columns import fixed_lists
from layerserve.scoring.files.fragments import ROWS, Fragment, InputFile
from layerserve.scoring.files.locations import missing_package
from layerserve.values.table_files.csv_table import MAX_ROW, CsvTable
from layerserve.values.table_files.parquet_table import group_batches

try:
    import pyarrow
    from pyarrow import csv, parquet
except ImportError as missing:
    raise missing_package(missing) from None

#: The column with the paths of images.
PATH = "path"
#: Types of which Arrow can't take some rows, and the same with another layout.
_VIEWS = {pyarrow.string_view(): pyarrow.string(), pyarrow.binary_view(): pyarrow.binary()}
#: Maximum size of a fragment of an `.npz` file, in bytes.
_NPZ_BYTES = 64 << 20


@dataclass(frozen=True)
class FileInfo:
    """What a file has: its columns, and its ranges of row groups or rows, each with a measure of the work.

    `rows` is None if only reading tells. `problem` is why the file can't be read; empty if it can.
    """

    schema: Any = None
    rows: int | None = None
    ranges: Sequence[tuple[int, int, int]] = ()
    problem: str = ""


@dataclass(frozen=True)
class Piece:
    """Rows as they are in a file. `numbers` are those of the rows, from 1, in their row group if there are any."""

    batch: Any
    file: str
    row_group: int | None
    numbers: Sequence[int]
    #: The file of each row, if they differ.
    files: Sequence[str] = ()

    def place(self, index: int) -> tuple[str, int | None, int]:
        """Returns the file, row group and number of a row."""
        file = self.files[index] if self.files else self.file
        return file, self.row_group, int(self.numbers[index])


@dataclass(frozen=True)
class Unreadable:
    """Rows that can't be read, from number `row` on. `count` is 0 if their number is unknown."""

    file: str
    row_group: int | None
    row: int
    count: int
    reason: str


def describe(kind: str, file: InputFile) -> FileInfo:
    """Reads what a file has."""
    try:
        if kind == "parquet":
            return _describe_parquet(file)
        if kind == "npz":
            return _describe_npz(file)
        with file.location.open() as opened:
            names = CsvTable(file.name, opened, _delimiter(file)).names
        return FileInfo(pyarrow.schema([(name, pyarrow.binary()) for name in names]), None, [(0, 0, max(1, file.size))])
    except LayerserveError as error:
        return FileInfo(problem=str(error).removeprefix(f"{file.name}: "))
    except Exception as error:  # of many kinds
        return FileInfo(problem=_unreadable(error))


def describe_images(column: str) -> FileInfo:
    """Returns what a folder of images has. `column` is the input that takes them."""
    return FileInfo(pyarrow.schema([(PATH, pyarrow.string()), (column, pyarrow.binary())]))


def read(kind: str, fragment: Fragment, schema: Any, columns: Sequence[str], rows: int) -> Iterator[Piece | Unreadable]:
    """Yields the rows of some columns, at most `rows` at a time, and what can't be read."""
    if kind == "images":
        yield from _images(fragment, schema, columns, rows)
        return
    (file,) = fragment.files
    if fragment.problem:
        yield Unreadable(file.name, None, 1, 0, fragment.problem)
        return
    file.check()
    readers = {"parquet": _parquet, "csv": _csv, "npz": _npz}
    yield from readers[kind](file, fragment, columns, rows)
    # What was read may be of both versions.
    file.check()


def _unreadable(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"can't be read, it may have been cut off ({type(error).__name__}: {text[0][:200] if text else ''})"


def _opened_parquet(file: InputFile) -> Any:
    if file.location.is_local:
        # Column by column through a buffer: a row group is never in memory as a whole.
        return parquet.ParquetFile(file.location.url, buffer_size=1 << 20, pre_buffer=False)
    return parquet.ParquetFile(file.location.open(), pre_buffer=True)


def _describe_parquet(file: InputFile) -> FileInfo:
    with _opened_parquet(file) as opened:
        facts = opened.metadata
        counts = [facts.row_group(at).num_rows for at in range(facts.num_row_groups)]
        schema = _without_views(opened.schema_arrow)
    ranges: list[tuple[int, int, int]] = []
    start = held = 0
    for at, count in enumerate(counts):
        held += count
        if held >= ROWS or at == len(counts) - 1:
            ranges.append((start, at + 1, max(1, held)))
            start, held = at + 1, 0
    return FileInfo(schema, sum(counts), ranges or [(0, 0, 1)])


def _without_views(schema: Any) -> Any:
    return pyarrow.schema([field.with_type(_VIEWS.get(field.type, field.type)) for field in schema], schema.metadata)


def _parquet(file: InputFile, fragment: Fragment, columns: Sequence[str], rows: int) -> Iterator[Piece | Unreadable]:
    with _opened_parquet(file) as opened:
        for group in range(fragment.start, fragment.stop):
            count, done = opened.metadata.row_group(group).num_rows, 0
            batches = group_batches(opened, group, columns, rows, use_threads=False)
            while done < count:
                try:
                    batch = next(batches)
                except Exception as error:  # of many kinds, OSError among them
                    file.check()
                    yield Unreadable(file.name, group, done + 1, count - done, _unreadable(error))
                    break
                plain = _without_views(batch.schema)
                # Arrow can't cast all types to themselves.
                batch = batch if plain.equals(batch.schema) else batch.cast(plain)
                yield Piece(batch, file.name, group, range(done + 1, done + 1 + batch.num_rows))
                done += batch.num_rows


def _delimiter(file: InputFile) -> str:
    return "\t" if file.location.suffix == ".tsv" else ","


def _csv(file: InputFile, fragment: Fragment, columns: Sequence[str], rows: int) -> Iterator[Piece | Unreadable]:
    wrong: list[Any] = []

    def skip(row: Any) -> str:
        wrong.append(row)
        return "skip"

    held: list[Any] = []
    numbers = _Numbers()
    count = 0
    with file.location.open() as opened:
        names = CsvTable(file.name, opened, _delimiter(file)).names
        opened.seek(0)
        # Fields are read as bytes, as their types are known of the whole file only.
        try:
            reader = csv.open_csv(
                opened,
                csv.ReadOptions(use_threads=False, block_size=MAX_ROW),
                csv.ParseOptions(delimiter=_delimiter(file), newlines_in_values=True, invalid_row_handler=skip),
                csv.ConvertOptions(
                    column_types={name: pyarrow.binary() for name in names},
                    include_columns=list(columns) or names[:1],
                    check_utf8=False,
                ),
            )
        except pyarrow.ArrowInvalid as error:
            if "Empty CSV" not in str(error):
                raise
            # The first line alone, without an end.
            return
        while True:
            try:
                batch = next(reader, None)
            except Exception as error:  # of many kinds
                yield Unreadable(file.name, None, numbers.next, 0, _unreadable(error))
                batch = None
            reported = numbers.see(wrong)
            for row, got, expected in reported:
                yield Unreadable(file.name, None, row, 1, f"got {got} fields, expected {expected}")
            if batch is not None:
                held.append(batch)
                count += batch.num_rows
            while count >= rows or (batch is None and count):
                table = pyarrow.Table.from_batches(held).slice(0, rows).combine_chunks()
                rest = pyarrow.Table.from_batches(held).slice(rows)
                held, count = rest.to_batches(), rest.num_rows
                (whole,) = table.to_batches()
                yield Piece(whole, file.name, None, numbers.take(whole.num_rows))
            if batch is None:
                return


class _Numbers:
    """The numbers of rows that have all fields, among others that the reader leaves out."""

    def __init__(self) -> None:
        self.next = 1
        self._left_out: set[int] = set()

    def see(self, wrong: list[Any]) -> list[tuple[int, int, int]]:
        """Returns the number, and the numbers of fields, of new rows that are left out. `wrong` is emptied."""
        # The first line names the columns.
        found = [(row.number - 1, row.actual_columns, row.expected_columns) for row in wrong]
        wrong.clear()
        self._left_out.update(number for number, _, _ in found)
        return found

    def take(self, count: int) -> Sequence[int]:
        """Returns the numbers of the next rows."""
        if not self._left_out:
            self.next += count
            return range(self.next - count, self.next)
        taken: list[int] = []
        while len(taken) < count:
            if self.next in self._left_out:
                self._left_out.discard(self.next)
            else:
                taken.append(self.next)
            self.next += 1
        return taken


def _describe_npz(file: InputFile) -> FileInfo:
    with file.location.open() as opened, zipfile.ZipFile(opened) as archive:
        arrays = {name.removesuffix(".npy"): _Array(archive, name) for name in archive.namelist()}
    lengths = {name: array.shape[0] for name, array in arrays.items() if array.shape}
    fields = [(name, array.type()) for name, array in arrays.items() if array.shape]
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InvalidArgument(f"{file.name}: got {listed}, expected the same number of rows in each array")
    count = next(iter(lengths.values()), 0)
    row_bytes = sum(array.row_bytes for array in arrays.values())
    step = max(1, min(ROWS, _NPZ_BYTES // max(1, row_bytes)))
    ranges = [(start, min(count, start + step), min(count, start + step) - start) for start in range(0, count, step)]
    return FileInfo(pyarrow.schema(fields), count, ranges or [(0, 0, 1)])


def _npz(file: InputFile, fragment: Fragment, columns: Sequence[str], rows: int) -> Iterator[Piece | Unreadable]:
    at = fragment.start
    with file.location.open() as opened, zipfile.ZipFile(opened) as archive:
        try:
            arrays = {name: _Array(archive, name + ".npy") for name in columns}
            for array in arrays.values():
                array.begin(fragment.start)
            while at < fragment.stop:
                count = min(rows, fragment.stop - at)
                read = {name: array.next(count) for name, array in arrays.items()}
                yield Piece(
                    pyarrow.RecordBatch.from_arrays(list(read.values()), names=list(read)),
                    file.name,
                    None,
                    range(at + 1, at + 1 + count),
                )
                at += count
        except (OSError, EOFError, zipfile.BadZipFile, ValueError) as error:
            yield Unreadable(file.name, None, at + 1, fragment.stop - at, _unreadable(error))


class _Array:
    """An array of an `.npz` file, read row by row."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        """Raises InvalidArgument for an array of Python's objects."""
        self._name = name.removesuffix(".npy")
        self._file: BinaryIO = cast(BinaryIO, archive.open(name))
        version = np.lib.format.read_magic(self._file)
        read_header: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else _header_2_0
        self.shape, fortran, self.dtype = read_header(self._file)
        if self.dtype.hasobject:
            raise InvalidArgument(f"array {self._name!r}: got Python's objects, expected numbers or text of one length")
        self._whole: Any = None
        if fortran and len(self.shape) > 1:
            archive_file = archive.open(name)
            self._whole = np.lib.format.read_array(archive_file, allow_pickle=False)
        self._at = 0
        self._start = self._file.tell()

    @property
    def row_bytes(self) -> int:
        """Size of a row, in bytes."""
        return int(self.dtype.itemsize * prod(self.shape[1:]))

    def type(self) -> Any:
        """Returns Arrow's type of the rows."""
        return _of_numpy(np.empty((0, *self.shape[1:]), self.dtype), self._name).type

    def begin(self, row: int) -> None:
        """Goes to a row."""
        self._at = row
        if self._whole is None:
            self._file.seek(self._start + row * self.row_bytes)

    def next(self, count: int) -> Any:
        """Returns the next rows, as an array of Arrow. Raises ValueError if the file ends before."""
        if self._whole is not None:
            array = np.ascontiguousarray(self._whole[self._at : self._at + count])
        else:
            size = count * self.row_bytes
            content = self._file.read(size)
            if len(content) != size:
                raise ValueError(f"array {self._name!r} ends early")
            array = np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])
        self._at += count
        return _of_numpy(array, self._name)


def _header_2_0(file: BinaryIO) -> Any:
    return np.lib.format.read_array_header_2_0(file)


def _of_numpy(array: Any, name: str) -> Any:
    """Returns an array of Arrow. Axes are lists of one size."""
    if array.dtype.kind not in "biufUSM":
        raise InvalidArgument(f"array {name!r}: got dtype {array.dtype}, expected numbers or text")
    flat = array.astype(array.dtype.newbyteorder("="), copy=False).reshape(-1)
    kind = {"U": pyarrow.string(), "S": pyarrow.binary()}.get(array.dtype.kind)
    return fixed_lists(pyarrow.array(flat.tolist() if kind is not None else flat, kind), array.shape[1:])


def _images(fragment: Fragment, schema: Any, columns: Sequence[str], rows: int) -> Iterator[Piece | Unreadable]:
    for start in range(0, len(fragment.files), rows):
        files, contents = [], []
        for file in fragment.files[start : start + rows]:
            try:
                file.check()
                content = file.location.read()
            except OSError as error:
                yield Unreadable(file.name, None, 1, 1, _unreadable(error))
                continue
            files.append(file.name)
            contents.append(content)
        if files:
            held = {PATH: pyarrow.array(files, pyarrow.string())}
            batch = pyarrow.RecordBatch.from_arrays(
                [held.get(name, pyarrow.array(contents, pyarrow.binary())) for name in schema.names], schema=schema
            )
            yield Piece(batch.select(list(columns)), "", None, [1] * len(files), files)
