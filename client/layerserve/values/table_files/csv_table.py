"""Columns of CSV files, with commas or tabs, in UTF-8, whose first line names the columns.

All fields are read as bytes. Whether a column has numbers is found from all of its fields, not from the first ones.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from layerserve.errors import InvalidArgument, InvalidTensor
from layerserve.values.table_files.arrow_columns import elements, seconds
from layerserve.values.table_files.table import FileArray, Selection, Table, joined, pyarrow_module, text_pieces
from layerserve.values.tensors import NUMPY_DTYPES, Array

#: Maximum size of a row, in bytes, which is read in blocks of this size.
MAX_ROW = 8 << 20
#: Maximum size of the line that names the columns, in bytes, and number of columns.
MAX_HEADER = 1 << 20
MAX_COLUMNS = 1 << 16
#: Marks that separate fields, in the order in which they are tried, and what they are called.
DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "vertical bars", ",": "commas"}
#: Fields that mean a missing number, as R and pandas write them. NaN is a number.
MISSING = ("", "NA", "N/A", "NULL", "null", "None")


class CsvTable(Table):
    """An open CSV file."""

    reads_all_when_described = True

    def __init__(self, label: str, file: BinaryIO, delimiter: str = ",") -> None:
        """Reads the names of the columns. Raises MissingPackageError without pyarrow, and InvalidArgument."""
        super().__init__(label)
        self._csv = pyarrow_module("pyarrow.csv", label)
        self._file = file
        self._delimiter = delimiter
        self.names = self._header()

    def _header(self) -> list[str]:
        self._file.seek(0)
        start = self._file.read(MAX_HEADER)
        if not start.strip(b"\r\n\xef\xbb\xbf"):
            raise InvalidArgument(f"{self.label}: the file is empty, expected a first line that names the columns")
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise InvalidArgument(f"{self.label}: got UTF-16, expected UTF-8")
        # Only whole lines can be decoded.
        lines = start[: start.rfind(b"\n")] if len(start) == MAX_HEADER else start
        text = lines.decode("utf-8-sig", "surrogateescape")
        try:
            names = next(row for row in csv.reader(io.StringIO(text, ""), delimiter=self._delimiter) if row)
        except (csv.Error, StopIteration) as error:
            raise InvalidArgument(
                f"{self.label}: got a first line of more than {MAX_HEADER} bytes, or none ({error}), expected the "
                "names of the columns"
            ) from None
        if any("\udc80" <= letter <= "\udcff" for name in names for letter in name):  # of "surrogateescape"
            raise InvalidArgument(f"{self.label}, first line: got bytes that are no UTF-8")
        self._check_delimiter(names, text)
        if len(names) > MAX_COLUMNS:
            raise InvalidArgument(f"{self.label}: got {len(names)} columns, expected at most {MAX_COLUMNS}")
        return names

    def _check_delimiter(self, names: Sequence[str], text: str) -> None:
        """Raises InvalidArgument if another mark than the delimiter splits the first two lines into as many fields."""
        if len(names) > 1:
            return
        lines = [line for line in text.splitlines() if line.strip()][:2]
        for mark, called in DELIMITERS.items():
            counts = {line.count(mark) for line in lines}
            if mark != self._delimiter and len(counts) == 1 and counts != {0}:
                raise InvalidArgument(
                    f"{self.label}: got fields separated by {called}, expected {DELIMITERS[self._delimiter]}; write it "
                    f"again, such as pandas.read_csv(PATH, sep={mark!r}).to_csv(PATH, index=False)"
                )

    def chosen(self, selection: Selection) -> tuple[str, ...]:
        columns = super().chosen(selection)
        if columns == tuple(self.names) and len(columns) > 1 and not selection.columns and _are_data(columns):
            raise InvalidArgument(
                f"{self.label}: the first line has numbers only ({', '.join(columns[:3])}, ...), expected the names of "
                "the columns"
            )
        return columns

    def unknown(self, column: str) -> str:
        text = super().unknown(column)
        return text + "; the first line must name the columns" if _are_data(self.names) else text

    def described(self, selections: Sequence[Selection]) -> list[FileArray]:
        wanted = [self.chosen(selection) for selection in selections]
        columns: dict[tuple[str, bool | None, str | None], _Column] = {}
        for names, selection in zip(wanted, selections, strict=True):
            for name in names:
                columns.setdefault((name, selection.text, selection.fill), _Column(self, name, selection))
        rows = 0
        last: bytes | None = None
        for batch in self._batches([*{name for name, *_ in columns}, self.names[-1]]):
            for column in columns.values():
                column.see(batch[column.name], rows)
            ends = batch[self.names[-1]]
            rows += len(ends)
            last = ends[-1].as_py() if len(ends) else last
        if last is not None:
            self._check_quotes(last, rows)
        arrays = []
        for names, selection in zip(wanted, selections, strict=True):
            dtypes = [columns[name, selection.text, selection.fill].dtype() for name in names]
            shape = (rows,) if len(names) == 1 else (rows, len(names))
            arrays.append(FileArray(self.joined_dtype(names, dtypes), shape, names, selection.fill))
        return arrays

    def _check_quotes(self, last: bytes, rows: int) -> None:
        """Raises InvalidTensor if the last field of the file begins with a quotation mark that is never closed."""
        raw = b'"' + last.replace(b'"', b'""')
        size = os.fstat(self._file.fileno()).st_size
        self._file.seek(max(0, size - len(raw) - 1))
        end = self._file.read(len(raw) + 1)
        # A field of marks only ends with the same ones whether it is closed or not: closed, with one more.
        if end.endswith(raw) and not end.endswith(raw + b'"'):
            raise InvalidTensor(f"{self.label}, row {rows}: got a quotation mark that is never closed")

    def pieces(self, arrays: Sequence[FileArray]) -> Iterator[tuple[int, Array]]:
        rows = 0
        for batch in self._batches(sorted({name for array in arrays for name in array.columns})):
            for index, array in enumerate(arrays):
                held = [batch[name] for name in array.columns]
                if array.is_text:
                    yield from ((index, piece) for piece in text_pieces([*map(elements, held)]))
                    continue
                dtype = NUMPY_DTYPES[array.dtype]
                found = [
                    self._numbers(name, of, array.fill, rows) for name, of in zip(array.columns, held, strict=True)
                ]
                yield index, joined([numbers.astype(dtype) for numbers in found])
            rows += len(next(iter(batch.values())))

    def _numbers(self, name: str, fields: Any, fill: str | None, row: int) -> Array:
        column = _Column(self, name, Selection(text=False, fill=fill))
        column.see(fields, row)
        return column.numbers(fields)

    def _batches(self, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Yields the fields of columns as Arrow's arrays of bytes, block by block, without the first line."""
        import pyarrow

        places = {name: str(self.names.index(name)) for name in columns}
        wrong: list[Any] = []

        def refuse(row: Any) -> str:
            wrong.append(row)
            return "error"

        numbered = [str(index) for index in range(len(self.names))]
        self._file.seek(0)
        rows = -1  # the first line isn't one
        # pyarrow closes what it reads from.
        with os.fdopen(os.dup(self._file.fileno()), "rb") as held:
            try:
                with self._csv.open_csv(
                    held,
                    self._csv.ReadOptions(use_threads=False, block_size=MAX_ROW, column_names=numbered),
                    self._csv.ParseOptions(
                        delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=refuse
                    ),
                    self._csv.ConvertOptions(
                        check_utf8=False,
                        column_types=dict.fromkeys(numbered, pyarrow.binary()),
                        include_columns=sorted(set(places.values())),
                        strings_can_be_null=False,
                    ),
                ) as reader:
                    for batch in reader:
                        skipped = 1 if rows < 0 and batch.num_rows else 0
                        rows += batch.num_rows
                        fields = {name: batch.column(place).slice(skipped) for name, place in places.items()}
                        yield fields
            except pyarrow.ArrowInvalid as error:
                raise InvalidTensor(self._refusal(error, wrong, max(0, rows))) from None

    def _refusal(self, error: Exception, wrong: Sequence[Any], rows: int) -> str:
        if wrong:
            row = f", row {wrong[0].number - 1}" if wrong[0].number else f", after row {rows}"
            return f"{self.label}{row}: got {wrong[0].actual_columns} fields, expected {wrong[0].expected_columns}"
        if "straddl" in str(error):
            return (
                f"{self.label}, after row {rows}: got a row of more than {MAX_ROW} bytes, expected at most that; is a "
                "quotation mark never closed?"
            )
        return f"{self.label}, after row {rows}: {error}"


def _are_data(names: Sequence[str]) -> bool:
    """Whether a first line has numbers only, other than those with which pandas names columns."""
    try:
        values = [float(name) for name in names]
    except ValueError:
        return False
    return values != list(range(len(names)))


@dataclass(frozen=True, slots=True)
class _Kind:
    """A way to read fields as numbers: `read` raises pyarrow.ArrowInvalid if one can't be read so."""

    dtype: str
    read: Callable[[Any], Array]


def _cast(kind: str) -> Callable[[Any], Array]:
    def read(fields: Any) -> Array:
        import pyarrow

        return np.asarray(fields.cast(pyarrow.type_for_alias(kind)).to_numpy(zero_copy_only=False))

    return read


def _timestamps(zone: str | None) -> Callable[[Any], Array]:
    def read(fields: Any) -> Array:
        import pyarrow

        return seconds(fields.cast(pyarrow.timestamp("us", zone)))

    return read


def _times(fields: Any) -> Array:
    import pyarrow.compute as compute

    return _timestamps(None)(compute.binary_join_element_wise("1970-01-01", fields, "T"))


#: In the order in which they are tried. Dates without a zone are UTC.
KINDS = (
    _Kind("int64", _cast("int64")),
    _Kind("float64", _cast("float64")),
    _Kind("bool", _cast("bool")),
    _Kind("float64", _timestamps(None)),
    _Kind("float64", _timestamps("UTC")),
    _Kind("float64", _times),
)


@dataclass(slots=True)
class _Column:
    """What is known of a column: as which kinds of numbers all fields so far could be read, or that it is text."""

    table: CsvTable
    name: str
    selection: Selection
    kinds: tuple[_Kind, ...] = field(init=False)
    text: bool = field(init=False)
    empty: bool = True

    def __post_init__(self) -> None:
        self.text = self.selection.text is True
        self.kinds = () if self.text else KINDS

    def dtype(self) -> str:
        """Returns the dtype of all fields."""
        return "string" if self.text else self.kinds[0].dtype

    def see(self, fields: Any, row: int) -> None:
        """Checks the next fields; `row` is the number of rows before. Raises InvalidTensor."""
        found = self._decoded(fields, row)
        self.text = self.text or self._begins_with_text(found)
        if self.text or not len(found):
            return
        found = self._filled(found, row)
        left = tuple(kind for kind in self.kinds if not self._fails(kind, found))
        if not left:
            failures = [_first_failure(kind, found) for kind in self.kinds]
            place = max(failures)
            got = found[place].as_py()
            raise InvalidTensor(f"{self.table.where(self.name, row + place)}: got {got[:40]!r}, expected a number")
        self.kinds, self.empty = left, False

    def _begins_with_text(self, found: Any) -> bool:
        """Whether the first field with a value isn't a number, in a column that may be text."""
        import pyarrow.compute as compute

        if self.selection.text is not None or not self.empty:
            return False
        present = compute.utf8_trim_whitespace(found.filter(_missing(found, invert=True)))
        return len(present) > 0 and all(self._fails(kind, present.slice(0, 1)) for kind in self.kinds)

    def numbers(self, fields: Any) -> Array:
        """Returns fields that were seen as numbers."""
        return self.kinds[0].read(self._filled(self._decoded(fields, 0), 0))

    def _fails(self, kind: _Kind, found: Any) -> bool:
        import pyarrow

        try:
            kind.read(found)
        except pyarrow.ArrowInvalid:
            return True
        return False

    def _decoded(self, fields: Any, row: int) -> Any:
        """Returns the fields as text. Raises InvalidTensor unless all are UTF-8."""
        import pyarrow

        try:
            return fields.cast(pyarrow.string())
        except pyarrow.ArrowInvalid:
            place = next(i for i, item in enumerate(fields) if not _is_utf8(item.as_py()))
            raise InvalidTensor(f"{self.table.where(self.name, row + place)}: got bytes that are no UTF-8") from None

    def _filled(self, found: Any, row: int) -> Any:
        """Returns fields with `fill` in place of missing ones. Raises InvalidTensor for those without it."""
        import pyarrow
        import pyarrow.compute as compute

        found = compute.utf8_trim_whitespace(found)
        missing = _missing(found)
        if not compute.any(missing).as_py():
            return found
        fill = self.selection.fill
        if fill is None:
            place = int(np.argmax(missing.to_numpy(zero_copy_only=False)))
            got = found[place].as_py()
            raise InvalidTensor(
                f"{self.table.where(self.name, row + place)}: got {repr(got) if got else 'an empty field'}, expected a "
                "number; set `fill` to read another value in its place"
            )
        return compute.if_else(missing, pyarrow.scalar(fill), found)


def _missing(fields: Any, *, invert: bool = False) -> Any:
    """Returns for each field whether it means a missing number, or with `invert` whether it doesn't."""
    import pyarrow
    import pyarrow.compute as compute

    missing = compute.is_in(compute.utf8_trim_whitespace(fields), pyarrow.array(MISSING))
    return compute.invert(missing) if invert else missing


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _first_failure(kind: _Kind, fields: Any) -> int:
    """Returns the index of the first field that can't be read as a kind of number; there is one."""
    import pyarrow

    start, stop = 0, len(fields)
    while stop - start > 1:
        middle = (start + stop) // 2
        try:
            kind.read(fields.slice(start, middle - start))
        except pyarrow.ArrowInvalid:
            stop = middle
        else:
            start = middle
    return start
