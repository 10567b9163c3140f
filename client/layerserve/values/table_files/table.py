"""What all files of columns have in common: which columns become an array, of which type and shape."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from layerserve.errors import InvalidArgument, InvalidTensor
from layerserve.values.inputs import unknown_name
from layerserve.values.tensors import NUMPY_DTYPES, Array

#: Approximate size of a piece of a column, in bytes.
PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Selection:
    """Which columns become an array, and how their fields are read.

    Several columns become the last axis. Without `columns`, it is the column called `name`, or all columns if there is
    none. `key` is a list of columns separated by commas.
    """

    columns: tuple[str, ...] = ()
    key: str = ""
    name: str = ""
    #: Whether fields are read as text, or as numbers. None: as the file has them.
    text: bool | None = None
    #: What is read in place of a missing field. None: missing fields are refused.
    fill: str | None = None


@dataclass(frozen=True, slots=True)
class FileArray:
    """An array in a file: its dtype, shape, columns, and what is read in place of a missing field.

    Of a file of NumPy's arrays, the only column is the name of the array. `mapped` is whether the array can be mapped,
    as it lies there as in memory.
    """

    dtype: str
    shape: tuple[int, ...]
    columns: tuple[str, ...] = ()
    fill: str | None = None
    mapped: bool = False

    @property
    def is_text(self) -> bool:
        """Whether its elements are text."""
        return self.dtype == "string"


class Table(ABC):
    """An open file of columns. `label` names it in error texts."""

    names: Sequence[str]
    #: Whether `described` has read, and so checked, all fields.
    reads_all_when_described = False

    def __init__(self, label: str) -> None:
        self.label = label

    def chosen(self, selection: Selection) -> tuple[str, ...]:
        """Returns the columns of a selection. Raises InvalidArgument if the file lacks one or has it twice."""
        columns = selection.columns
        if not columns and selection.key:
            parts = tuple(selection.key.split(","))
            # The name of one column may have commas.
            columns = (selection.key,) if selection.key in self.names and not set(parts) <= set(self.names) else parts
        elif not columns:
            columns = (selection.name,) if selection.name and selection.name in self.names else tuple(self.names)
        for column in columns:
            if column not in self.names:
                raise InvalidArgument(f"{self.label}: {self.unknown(column)}")
            if self.names.count(column) > 1:
                raise InvalidArgument(f"{self.label}: got {self.names.count(column)} columns {column!r}, expected one")
            if not column:
                raise InvalidArgument(f"{self.label}: got a column without a name; name the columns to read")
        return columns

    def unknown(self, column: str) -> str:
        """Returns the error text for a column that the file doesn't have."""
        if len(self.names) > 20:
            return unknown_name("column", column, self.names).partition("; the model has")[0]
        return unknown_name("column", column, self.names).replace("the model has", "the file has")

    @abstractmethod
    def described(self, selections: Sequence[Selection]) -> list[FileArray]:
        """Returns the arrays of selections, in one pass. Raises InvalidArgument, and InvalidTensor for wrong fields."""

    @abstractmethod
    def pieces(self, arrays: Sequence[FileArray]) -> Iterator[tuple[int, Array]]:
        """Yields the rows of described arrays, with the index of the array, in one pass.

        Text is in object arrays of `bytes`. Raises InvalidTensor for fields that can't be read.
        """

    def where(self, column: str, row: int) -> str:
        """Returns the place of a field in error texts; `row` counts from 0, without the header."""
        return f"{self.label}, column {column!r}, row {row + 1}"

    def joined_dtype(self, columns: Sequence[str], dtypes: Sequence[str]) -> str:
        """Returns the dtype of an array of several columns. Raises InvalidTensor for numbers beside text."""
        if len(set(dtypes)) == 1:
            return dtypes[0]
        if "string" in dtypes:
            text = next(name for name, dtype in zip(columns, dtypes, strict=True) if dtype == "string")
            raise InvalidTensor(
                f"{self.label}: got columns of numbers and of text ({text!r}), expected one kind; name the columns"
            )
        return str(np.result_type(*(NUMPY_DTYPES[dtype] for dtype in dtypes)).name)


def rows_in_piece(shape: Sequence[int]) -> int:
    """Returns how many rows of an array of this shape make a piece."""
    return max(1, PIECE // max(1, 8 * math.prod(shape[1:])))


def joined(columns: Sequence[Array]) -> Array:
    """Returns columns as one array: itself, or several as the last axis."""
    return columns[0] if len(columns) == 1 else np.stack(columns, axis=-1)


def text_pieces(columns: Sequence[Iterator[bytes]]) -> Iterator[Array]:
    """Yields the texts of columns, row by row, in object arrays of about PIECE bytes."""
    held: list[bytes] = []
    size = 0
    for text in chain.from_iterable(zip(*columns, strict=True)):
        held.append(text)
        size += len(text)
        if size >= PIECE:
            yield _objects(held)
            held, size = [], 0
    if held:
        yield _objects(held)


def _objects(texts: Sequence[bytes]) -> Array:
    array = np.empty(len(texts), object)
    array[:] = texts
    return array


def pyarrow_module(name: str, label: str) -> Any:
    """Imports a module of pyarrow. Raises MissingPackageError if it isn't installed."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingPackageError(label) from None


class MissingPackageError(InvalidArgument):
    """pyarrow isn't installed. `label` names the file that requires it."""

    def __init__(self, label: str, where: str = "") -> None:
        super().__init__(f"{label}: requires pyarrow{where}: pip install pyarrow")
        self.label = label
