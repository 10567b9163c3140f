"""Batches of rows in the kinds in which engines have them: dicts of arrays, tables of Arrow, DataFrames of pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from layerserve.errors import InvalidArgument
from layerserve.scoring.columns import arrow_array, texts
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import Array


class Batch(Protocol):
    """Rows of named columns."""

    @property
    def names(self) -> Sequence[str]:
        """The columns."""

    @property
    def rows(self) -> int:
        """The number of rows."""

    def column(self, name: str) -> Any:
        """A column: an array, a Series, or an array of Arrow."""

    def scored(self, kept: Sequence[str], outputs: Sequence[tuple[TensorSpec, Array]], facts: Mapping[str, str]) -> Any:
        """Returns a batch of the same kind with some of the columns and the outputs.

        `facts` are about the model, for kinds that have metadata.
        """


def batch_of(value: Any) -> Batch:
    """Returns a batch for any of its kinds. Raises InvalidArgument for another value."""
    if isinstance(value, Mapping):
        return Arrays(value)
    if hasattr(value, "schema") and hasattr(value, "num_rows") and hasattr(value, "column"):
        return ArrowTable(value)
    if hasattr(value, "columns") and hasattr(value, "iloc"):
        return Frame(value)
    raise InvalidArgument(
        f"batch: got {type(value).__name__}, expected a dict of arrays, a RecordBatch or Table of pyarrow, or a "
        "DataFrame of pandas"
    )


class Arrays:
    """A dict of arrays."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        self._columns = {str(name): column for name, column in value.items()}
        self.names = tuple(self._columns)
        lengths = {name: _length(column, name) for name, column in self._columns.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise InvalidArgument(f"batch: got {listed}, expected the same number of rows in each column")
        self.rows = next(iter(lengths.values()), 0)

    def column(self, name: str) -> Any:
        return self._columns[name]

    def scored(
        self, kept: Sequence[str], outputs: Sequence[tuple[TensorSpec, Array]], facts: Mapping[str, str]
    ) -> dict[str, Any]:
        return {**{name: self._columns[name] for name in kept}, **{spec.name: array for spec, array in outputs}}


class ArrowTable:
    """A RecordBatch or a Table of pyarrow."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self.names = tuple(value.schema.names)
        self.rows = int(value.num_rows)

    def column(self, name: str) -> Any:
        return self._value.column(name)

    def scored(self, kept: Sequence[str], outputs: Sequence[tuple[TensorSpec, Array]], facts: Mapping[str, str]) -> Any:
        import pyarrow

        made = [arrow_array(array, spec) for spec, array in outputs]
        fields = [self._value.schema.field(name) for name in kept]
        # A result that is null nowhere: what reads it needn't ask.
        fields += [pyarrow.field(spec.name, one.type) for (spec, _), one in zip(outputs, made, strict=True)]
        columns = [*(self._value.column(name) for name in kept), *made]
        return type(self._value).from_arrays(columns, schema=pyarrow.schema(fields, metadata=dict(facts)))


class Frame:
    """A DataFrame of pandas."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self.names = tuple(map(str, value.columns))
        # Those of columns without names are numbers.
        self._labels = dict(zip(self.names, value.columns, strict=True))
        self.rows = len(value)

    def column(self, name: str) -> Any:
        return self._value[self._labels[name]]

    def scored(self, kept: Sequence[str], outputs: Sequence[tuple[TensorSpec, Array]], facts: Mapping[str, str]) -> Any:
        frame = self._value[[self._labels[name] for name in kept]].copy()
        for spec, array in outputs:
            values = texts(array, spec.name) if spec.dtype == "string" else array
            # A column has one object a row.
            frame[spec.name] = values if values.ndim == 1 else _objects(values)
        return frame


def _length(column: Any, name: str) -> int:
    try:
        return len(column)
    except TypeError:
        raise InvalidArgument(
            f"batch, column {name!r}: got {type(column).__name__}, expected an array of rows"
        ) from None


def _objects(array: Array) -> Array:
    made = np.empty(len(array), object)
    for row, one in enumerate(array):
        made[row] = one
    return made
