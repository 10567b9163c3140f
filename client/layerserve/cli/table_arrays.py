"""Reading of columns of local CSV and Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from layerserve.errors import InvalidArgument
from layerserve.values.table_files.formats import open_table, reading
from layerserve.values.table_files.table import FileArray, Selection, Table
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import NUMPY_DTYPES, Array


def read_columns(path: str, key: str, name: str, specs: Sequence[TensorSpec], fill: str | None) -> Any:
    """Returns the columns that `key` lists as one array, or without a key a dict of those that have names of `specs`.

    `name` is the input or output that the columns are for, if known. What takes text is read as text. Raises
    InvalidArgument if the file lacks a column or a field is invalid, and OSError.
    """
    of_name = {spec.name: spec for spec in specs}
    if not name and len(specs) == 1:
        name = specs[0].name
    suffix = Path(path).suffix
    with Path(path).open("rb") as file, reading(path):
        table = open_table(file, suffix, path)
        found = [] if key else [spec for spec in specs if spec.name in table.names]
        if key or name or not found:
            spec = of_name.get(name)
            array = _read(table, [Selection(key=key, name=name, text=_is_text(spec), fill=fill)], [spec])[0]
            _check_columns(path, array, spec)
            return array
        selections = [Selection((spec.name,), text=_is_text(spec), fill=fill) for spec in found]
        return dict(zip((spec.name for spec in found), _read(table, selections, found), strict=True))


def _check_columns(path: str, array: Array, spec: TensorSpec | None) -> None:
    """Raises InvalidArgument for another number of columns than the model's input or output has on its last axis."""
    if spec is not None and array.ndim == len(spec.shape) == 2 and spec.shape[1] not in (None, array.shape[1]):
        raise InvalidArgument(
            f"{path}: got {array.shape[1]} columns for {spec.name!r}, expected {spec.shape[1]}; name them: "
            f"{path}:COLUMN,COLUMN"
        )


def _is_text(spec: TensorSpec | None) -> bool | None:
    return None if spec is None else spec.dtype == "string"


def _read(table: Table, selections: Sequence[Selection], specs: Sequence[TensorSpec | None]) -> list[Array]:
    arrays = table.described(selections)
    pieces: list[list[Array]] = [[] for _ in arrays]
    for index, piece in table.pieces(arrays):
        pieces[index].append(piece)
    return [_whole(*each) for each in zip(arrays, pieces, specs, strict=True)]


def _whole(array: FileArray, pieces: list[Array], spec: TensorSpec | None) -> Array:
    joined = np.concatenate(pieces) if pieces else np.empty(0, NUMPY_DTYPES[array.dtype])
    shape = array.shape
    if spec is not None and len(spec.shape) == len(shape) + 1 and spec.shape[-1] == 1:
        shape = (*shape, 1)
    return joined.reshape(shape)
