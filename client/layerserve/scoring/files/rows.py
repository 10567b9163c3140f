"""The rows of a piece: those that a model takes are scored, the others are found, with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow
from pyarrow import compute

from layerserve.errors import (
    InvalidArgument,
    InvalidTensor,
    MissingInput,
    OutOfRange,
    UnknownInput,
    UnknownOutput,
)
from layerserve.scoring.scorer import Scorer
from layerserve.values.table_files.csv_table import MISSING
from layerserve.values.tensor_spec import TensorSpec

#: Errors of a row's values, and those that are none although they are of their classes.
_OF_ROWS = (InvalidArgument, OutOfRange)
_OF_ALL = (MissingInput, UnknownInput, UnknownOutput)
#: What error texts of one row begin with.
_PLACE = re.compile(r"^(?:batch, column '(?P<column>.*?)'|(?:input )?'(?P<input>.*?)')(?:, row \d+)?:? ")

Convert = Callable[[Any], Any]


@dataclass(frozen=True)
class BadRow:
    """A row, by its index in the batch, that can't be scored. `column` is empty if the error names none."""

    index: int
    column: str
    reason: str


class Rows:
    """Scores batches as a reader yields them."""

    def __init__(self, scorer: Scorer, schema: Any, kind: str) -> None:
        """`schema` has the columns of the input. Raises InvalidArgument if they don't fit."""
        self._scorer = scorer
        self._sources = [(spec, columns) for spec, columns in scorer.sources() if set(columns) <= set(schema.names)]
        self._needed = [column for _, columns in self._sources for column in columns]
        self.columns = list(dict.fromkeys([*self._needed, *scorer.columns]))
        self._converted: dict[str, Convert] = {}
        if kind == "csv":
            self._converted.update({name: _Text(name) for name in scorer.columns})
            for spec, columns in self._sources:
                make = _Text if spec.dtype == "string" else partial(_Number, dtype=spec.dtype)
                self._converted.update({column: make(column) for column in columns})
        empty = pyarrow.RecordBatch.from_arrays([pyarrow.array([], one.type) for one in schema], schema=schema)
        #: The schema of the results.
        self.schema = scorer(self._prepared(empty)).schema
        self._check_types(self._prepared(empty.select(self.columns)))

    def score(self, batch: Any) -> tuple[Any, list[BadRow]]:
        """Returns the results of the rows that can be scored, and the other rows."""
        try:
            return self._attempt(batch), []
        except _OF_ROWS as error:
            if isinstance(error, _OF_ALL):
                raise
            failed = error
        bad = self._nulls(batch)
        left = np.setdiff1d(np.arange(batch.num_rows), [one.index for one in bad])
        bad += self._find(batch, left)
        good = np.setdiff1d(left, [one.index for one in bad])
        if len(good) == batch.num_rows:
            raise InvalidArgument(
                f"each row can be scored, but not {batch.num_rows} at a time: {failed}; pass --batch-size 1"
            ) from failed
        rest = batch.take(pyarrow.array(good))
        return self._attempt(rest), sorted(bad, key=lambda one: one.index)

    def _attempt(self, batch: Any) -> Any:
        return self._scorer(self._prepared(batch))

    def _prepared(self, batch: Any) -> Any:
        if not self._converted:
            return batch
        names = batch.schema.names
        arrays = [
            self._converted[name](column) if name in self._converted else column
            for name, column in zip(names, batch.columns, strict=True)
        ]
        return pyarrow.RecordBatch.from_arrays(arrays, names=names)

    def _nulls(self, batch: Any) -> list[BadRow]:
        """Returns the rows with a missing value, which are found without trying them."""
        found: dict[int, BadRow] = {}
        for name in self._needed:
            column = batch.column(name)
            if column.null_count:
                for index in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
                    found.setdefault(index, BadRow(index, name, "got no value (null), expected one"))
        return list(found.values())

    def _find(self, batch: Any, rows: Any) -> list[BadRow]:
        """Returns those of some rows that fail alone. Rows are tried by halves."""
        if not len(rows):
            return []
        try:
            self._attempt(batch.take(pyarrow.array(rows)))
        except _OF_ROWS as error:
            if isinstance(error, _OF_ALL):
                raise
            if len(rows) == 1:
                return [self._bad_row(int(rows[0]), error)]
            middle = len(rows) // 2
            return self._find(batch, rows[:middle]) + self._find(batch, rows[middle:])
        return []

    def _bad_row(self, index: int, error: Exception) -> BadRow:
        text = str(error)
        place = _PLACE.match(text)
        name = (place and (place["column"] or place["input"])) or getattr(error, "name", "") or ""
        if name not in self.columns:
            # The name of an input.
            name = next((", ".join(columns) for spec, columns in self._sources if spec.name == name), "")
        return BadRow(index, name, text[place.end() :] if place else text)

    def _check_types(self, empty: Any) -> None:
        """Raises InvalidTensor if a column can't be an input."""
        for spec, columns in self._sources:
            for column in columns:
                kind = empty.column(column).type
                try:
                    array = self._scorer.array(spec, [(column, empty.column(column))])
                except InvalidTensor as error:
                    if "has type " in str(error):
                        raise _unfit(column, kind, spec) from None
                    raise
                axes = len(spec.shape) - (1 if len(columns) == 1 else 2)
                lengths = _fixed(kind)
                fits = all(a in (None, b) for a, b in zip(spec.shape[1:], lengths, strict=False))
                if array.ndim - 1 > axes or (len(lengths) == axes and not fits and None not in lengths):
                    raise _unfit(column, kind, spec)


def _fixed(kind: Any) -> list[int]:
    lengths = []
    while pyarrow.types.is_fixed_size_list(kind):
        lengths.append(kind.list_size)
        kind = kind.value_type
    return lengths


def _unfit(column: str, kind: Any, spec: TensorSpec) -> InvalidTensor:
    row = spec.shape[1:]
    fits = "text" if spec.dtype == "string" else f"numbers that fit {spec.dtype}"
    if row:
        fits += f", in lists of shape {tuple('any' if axis is None else axis for axis in row)}".replace("'", "")
    return InvalidTensor(f"column {column!r}: got type {kind}, expected {fits}, for input {spec.name!r}")


class _Text:
    """Fields of CSV as text."""

    def __init__(self, column: str) -> None:
        self._column = column

    def __call__(self, fields: Any) -> Any:
        try:
            return fields.cast(pyarrow.string())
        except pyarrow.ArrowInvalid:
            raise InvalidTensor(f"batch, column {self._column!r}: got bytes that aren't UTF-8, expected text") from None


class _Number:
    """Fields of CSV as numbers."""

    def __init__(self, column: str, dtype: str) -> None:
        self._column = column
        self._dtype = dtype
        self._whole = dtype.startswith(("int", "uint"))
        wide = pyarrow.uint64() if dtype == "uint64" else pyarrow.int64()
        self._type = pyarrow.bool_() if dtype == "bool" else wide if self._whole else pyarrow.float64()

    def __call__(self, fields: Any) -> Any:
        text = compute.ascii_trim_whitespace(_Text(self._column)(fields))
        missing = compute.is_in(text, value_set=pyarrow.array(MISSING))
        text = compute.if_else(missing, pyarrow.scalar(None, pyarrow.string()), text)
        with suppress(pyarrow.ArrowInvalid):
            return text.cast(self._type)
        if self._whole:
            with suppress(pyarrow.ArrowInvalid):
                return self._rounded(text)
        shown = text[0].as_py() if len(text) else ""
        raise InvalidTensor(
            f"batch, column {self._column!r}: got {str(shown)[:40]!r}, expected a number that fits {self._dtype}"
        )

    def _rounded(self, text: Any) -> Any:
        """Reads whole numbers, of which some are written as 3.0, as programs that have missing values do.

        Only those are read as floats, which can't hold all whole numbers.
        """
        plain = compute.match_substring_regex(text, r"^-?\d+$")
        none = pyarrow.scalar(None, pyarrow.string())
        whole = compute.if_else(plain, text, none).cast(self._type)
        return compute.coalesce(whole, compute.if_else(plain, none, text).cast(pyarrow.float64()).cast(self._type))
