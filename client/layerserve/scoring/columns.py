"""Columns of batches as arrays of a model's inputs, and outputs as columns of Arrow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from layerserve.errors import InvalidTensor
from layerserve.images.options import ImageOptions
from layerserve.scoring.image_rows import image_rows
from layerserve.values.casting import as_array, cast
from layerserve.values.table_files.arrow_columns import ArrowColumn
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import NUMPY_DTYPES, Array

#: What to do about a missing value, for error texts.
FILL = "; drop the row, or fill the column before scoring"


def input_array(columns: Sequence[tuple[str, Any]], spec: TensorSpec, options: ImageOptions | None = None) -> Array:
    """Returns the array of an input: of one column, or of several, which become its last axis.

    `columns` are names with arrays, Series, or arrays of Arrow. Encoded images are decoded, with these options if there
    are any, unless the model decodes those of the input. Raises InvalidTensor.
    """
    if spec.dtype != "string" and len(columns) == 1:
        ((name, column),) = columns
        if (encoded := _encoded(column, name)) is not None:
            return encoded if spec.encoding and options is None else image_rows(encoded.tolist(), name, spec, options)
    arrays = [cast(_array(column, name, spec), spec.dtype, name) for name, column in columns]
    if len(arrays) > 1:
        for (name, _), array in zip(columns, arrays, strict=True):
            if array.ndim != 1:
                raise InvalidTensor(
                    name=name,
                    got=f"shape {array.shape}",
                    expected=f"one value a row, as input {spec.name!r} has several columns",
                )
        return np.stack(arrays, axis=-1)
    (array,) = arrays
    row = [axis for axis in spec.shape[1:] if axis is not None]
    if array.ndim == 2 and 1 < len(row) == len(spec.shape) - 1 and array.shape[1] == math.prod(row):
        # Spark, and Parquet files of others, have flat lists only.
        return array.reshape(len(array), *row)
    return array


def _encoded(column: Any, name: str) -> Array | None:
    """Returns a column of bytes, such as images, as they are; None for another column. Raises InvalidTensor."""
    if hasattr(column, "null_count"):
        if str(column.type) not in ("binary", "large_binary", "binary_view"):
            return None
        elements = column.to_pylist()
    else:
        # Lists may be ragged, of which NumPy makes no array.
        kind = "O" if isinstance(column, (list, tuple)) else np.asarray(column).dtype.kind
        elements = list(column) if kind in "OS" else []
        if not elements or not any(isinstance(one, bytes) for one in elements):
            return None
    if None in elements:
        raise _missing(name, elements.index(None))
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def _array(column: Any, name: str, spec: TensorSpec) -> Array:
    if hasattr(column, "null_count"):
        return _of_arrow(column, name, spec)
    if hasattr(column, "array") and hasattr(column, "dtype") and hasattr(column, "to_numpy"):
        column = _of_series(column, name)
    array = np.asarray(column, object) if _is_ragged(column) else as_array_or_objects(column, name)
    return _of_objects(array, name) if array.dtype == object else array


def as_array_or_objects(column: Any, name: str) -> Array:
    """Returns an array as `as_array` does, but objects as they are."""
    if isinstance(column, np.ndarray) and column.dtype == object:
        return column
    return as_array(column, name)


def _is_ragged(column: Any) -> bool:
    return isinstance(column, (list, tuple)) and any(one is None for one in column)


def _of_arrow(column: Any, name: str, spec: TensorSpec) -> Array:
    import pyarrow

    if isinstance(column, pyarrow.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(column.type, pyarrow.BaseExtensionType):
        column = _of_extension(column, name)
        if isinstance(column, np.ndarray):
            return column
    is_text = spec.dtype == "string"
    held = ArrowColumn("batch", name, column.type, is_text, None, FILL)
    if (held.dtype == "string") != is_text:
        raise InvalidTensor(f"batch, column {name!r} has type {column.type}, expected {spec.dtype}")
    lengths = held.lengths(column)
    if not is_text:
        return held.numbers(column, 0, lengths)
    texts = list(held.texts(column, 0, lengths))
    array = np.empty(len(texts), object)
    array[:] = texts
    return array.reshape(len(column), *lengths)


def _of_extension(column: Any, name: str) -> Any:
    """Returns tensors of an extension type (Arrow's, Ray's) as an array, or else what the type stores."""
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise InvalidTensor(f"batch, column {name!r}, row {row + 1}: got no value (null), expected one{FILL}")
    if hasattr(column, "to_numpy_ndarray"):
        return column.to_numpy_ndarray()
    if hasattr(column.type, "shape"):
        return _of_objects(np.asarray(column.to_numpy(zero_copy_only=False)), name)
    return column.storage


def _of_series(column: Any, name: str) -> Any:
    """Returns the values of a Series of pandas, as NumPy or Python has them. Raises InvalidTensor for missing ones."""
    dtype = column.dtype
    if isinstance(dtype, np.dtype):
        return column.to_numpy()
    missing = column.isna().to_numpy()
    if missing.any():
        raise _missing(name, int(np.argmax(missing)))
    if hasattr(column, "cat"):
        return _of_series(column.astype(column.cat.categories.dtype), name)
    plain = getattr(dtype, "numpy_dtype", None)
    return column.to_numpy(plain if isinstance(plain, np.dtype) else object)


def _of_objects(array: Array, name: str) -> Array:
    """Returns rows that are arrays or lists as one array, others as they are. Raises InvalidTensor."""
    rows = array.tolist()
    if array.ndim == 1 and (nested := [isinstance(one, (list, tuple, np.ndarray)) for one in rows]) and any(nested):
        for row, one in enumerate(rows):
            if one is None:
                raise _missing(name, row)
        made = [np.asarray(one) for one in rows]
        for row, one in enumerate(made):
            if one.shape != made[0].shape:
                raise InvalidTensor(
                    f"batch, column {name!r}, row {row + 1}: got shape {one.shape}, expected {made[0].shape}, as in "
                    "the first row"
                )
        return as_array(np.stack(made), name)
    for row, one in enumerate(rows if array.ndim == 1 else ()):
        if one is None or (one != one) is True:
            raise _missing(name, row)
    return as_array(array, name)


def _missing(name: str, row: int) -> InvalidTensor:
    return InvalidTensor(f"batch, column {name!r}, row {row + 1}: got no value (null), expected one{FILL}")


def no_rows(spec: TensorSpec) -> Array:
    """Returns an output without rows."""
    return np.empty([0, *(axis or 0 for axis in spec.shape[1:])], NUMPY_DTYPES[spec.dtype])


def fixed_lists(elements: Any, lengths: Sequence[int]) -> Any:
    """Returns an array of Arrow whose rows are lists of these lengths, one in the other, of a flat one of elements."""
    import pyarrow

    for length in reversed(lengths):
        elements = pyarrow.FixedSizeListArray.from_arrays(elements, length)
    return elements


def arrow_type(spec: TensorSpec) -> Any:
    """Returns the type of an output's column: axes are lists, of one size unless the axis is of any length."""
    import pyarrow

    if spec.dtype == "string":
        made = pyarrow.string()
    else:
        if NUMPY_DTYPES[spec.dtype].kind == "c":
            raise InvalidTensor(name=spec.name, got=f"dtype {spec.dtype}", expected="a type that Arrow has")
        made = pyarrow.from_numpy_dtype(NUMPY_DTYPES[spec.dtype])
    for axis in reversed(spec.shape[1:]):
        made = pyarrow.list_(made) if axis is None else pyarrow.list_(made, axis)
    return made


def arrow_array(array: Array, spec: TensorSpec) -> Any:
    """Returns an output as an array of Arrow of `arrow_type`. Raises InvalidTensor for text that isn't UTF-8."""
    import pyarrow

    kind = arrow_type(spec)
    if not len(array):
        return pyarrow.array([], kind)
    if spec.dtype == "string":
        made = pyarrow.array(texts(array, spec.name).ravel().tolist(), pyarrow.string())
    else:
        made = pyarrow.array(np.ascontiguousarray(array).reshape(-1))
    for at in range(array.ndim - 1, 0, -1):
        length = array.shape[at]
        if spec.shape[at] is not None:
            made = pyarrow.FixedSizeListArray.from_arrays(made, length)
        else:
            offsets = np.arange(math.prod(array.shape[:at]) + 1, dtype=np.int32) * length
            made = pyarrow.ListArray.from_arrays(pyarrow.array(offsets), made)
    return made


def texts(array: Array, name: str) -> Array:
    """Returns an output's `bytes` as `str`. Raises InvalidTensor if they aren't UTF-8."""
    made = np.empty(array.shape, object)
    flat = made.reshape(-1)
    for at, one in enumerate(array.ravel().tolist()):
        try:
            flat[at] = one if isinstance(one, str) else one.decode()
        except UnicodeDecodeError:
            raise InvalidTensor(name=name, got=f"bytes that aren't UTF-8, {one[:40]!r}", expected="text") from None
    return made
