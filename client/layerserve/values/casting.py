"""Conversion of a user's arrays to the dtypes of a model's inputs, without silent loss.

As in Keras, numbers are rounded when they are converted to floats (a list of ints or a float64 array for a float32
input). All other conversions preserve every value or are refused: 1.0 can be converted to the int 1, but 1.5 can't; 300
can't be converted to uint8; a finite float can't become infinite.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layerserve.errors import InvalidArgument, InvalidTensor
from layerserve.values.tensors import NUMPY_DTYPES, Array, array_dtype, overflows_bfloat16

FLOATS = frozenset({"float16", "float32", "float64", "bfloat16"})
COMPLEX = frozenset({"complex64", "complex128"})
#: Types of elements in arrays of objects.
TEXTS = (str, bytes)
NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)

#: Attributes of what NumPy makes an array of; DataFrames have the last.
ARRAY = ("__array__", "__array_interface__", "shape", "to_numpy")

#: What is expected in place of rows of different lengths.
RAGGED = "an array: rows of one length, padded with 0, or '' for text"


def as_array(value: Any, name: str) -> Array:
    """Converts an array, a nested list, a scalar or an object with `__array__` to an array.

    Objects that are numbers, which pandas makes of columns of several dtypes, become an array of numbers. Raises
    InvalidTensor if there is no array, such as for lists whose rows differ in length, and for objects that are neither
    all numbers nor all str or bytes.
    """
    if isinstance(value, TEXTS):
        got = f"one {type(value).__name__}, {value[:40]!r}"
        raise InvalidTensor(name=name, got=got, expected="a list or an array of rows; one row of text is a list of one")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # torch raises the last for a tensor with gradients
        if "inhomogeneous" in str(error):
            raise InvalidTensor(name=name, got="rows of different lengths", expected=RAGGED) from error
        raise InvalidTensor(name=name, got=f"{type(value).__name__} ({error})", expected="an array") from error
    return _of_objects(array, name) if array.dtype.kind == "O" else array


def as_rows(value: Any, name: str) -> Any:
    """Returns an array as `as_array` does, but an object that is sliced later as it is, such as an h5py dataset.

    So data on disk isn't read as a whole. Such an object has `shape` and `dtype`, and is no array or column in memory.
    Raises InvalidArgument for what has no rows.
    """
    check_has_rows(value, name)
    rows = value if sliced_later(value) else as_array(value, name)
    if not rows.shape:
        raise InvalidArgument(f"{name}: got a scalar, expected an array of rows")
    return rows


def sliced_later(value: Any) -> bool:
    """Whether this isn't read as a whole but sliced, such as an h5py dataset."""
    if isinstance(value, np.ndarray):
        return False
    return hasattr(value, "shape") and hasattr(value, "dtype") and not hasattr(value, "to_numpy")


def check_has_rows(value: Any, name: str) -> None:
    """Raises InvalidArgument for a path, and for what yields batches."""
    if isinstance(value, (*TEXTS, os.PathLike)):
        raise InvalidArgument(
            f"{name}: got {value!r}, expected an array of rows; a file of the server is a ServerFile, a dataset "
            "client.datasets.get(id)"
        )
    if yields_batches(value):
        batches = "batches" if hasattr(value, "__iter__") else "(batches[i] for i in range(len(batches)))"
        raise InvalidArgument(
            f"{name}: got {type(value).__name__}, which yields batches, expected arrays with the rows of all batches: "
            f"x, y = map(numpy.concatenate, zip(*{batches}))"
        )


def yields_batches(value: Any) -> bool:
    """Whether this is no array but iterates over batches: a generator, a PyDataset, a DataLoader, a tf.data.Dataset."""
    if isinstance(value, (np.ndarray, Sequence, Mapping)) or any(hasattr(value, part) for part in ARRAY):
        return False
    return hasattr(value, "__iter__") or hasattr(value, "__getitem__")


def _of_objects(array: Array, name: str) -> Array:
    elements = array.ravel().tolist()
    kinds = set(map(type, elements))
    if all(issubclass(kind, TEXTS) for kind in kinds):
        return array
    if all(issubclass(kind, NUMBERS) for kind in kinds):
        numbers = np.asarray(elements)
        if numbers.dtype.kind in "biuf":
            return numbers.reshape(array.shape)
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    expected = "numbers, or str or bytes"
    if any(issubclass(kind, TEXTS) for kind in kinds) and all(map(_is_text_or_missing, elements)):
        expected += "; put a text, such as '', in place of missing values: column.fillna('')"
    raise InvalidTensor(name=name, got=f"an array of objects: {found}", expected=expected)


def _is_text_or_missing(element: object) -> bool:
    return isinstance(element, TEXTS) or element is None or element != element


def cast(array: Array, dtype: str, name: str) -> Array:
    """Converts an array to the NumPy dtype from which `dtype` is encoded; returns it unchanged if it has that already.

    Raises InvalidTensor if a value would change, between text and numbers, and from and to complex numbers.
    """
    held = array_dtype(array, name)
    if held == dtype:
        return array
    if array.size == 0 and array.dtype == np.float64:
        # An empty list has no dtype; NumPy makes it float64.
        return array.astype(NUMPY_DTYPES[dtype])
    if "string" in (held, dtype) or held in COMPLEX or dtype in COMPLEX:
        raise InvalidTensor(name=name, got=f"dtype {held}", expected=dtype)
    if dtype in FLOATS:
        return _to_float(array, dtype, name)
    return _to_exact(array, held, dtype, name)


def default_cast(array: Array, name: str) -> Array:
    """Converts an array without an expected dtype, such as targets, as Keras does: float64 to float32.

    Raises InvalidTensor for complex numbers.
    """
    if array.dtype.kind == "c":
        raise InvalidTensor(name=name, got=f"dtype {array.dtype}", expected="real numbers")
    return _to_float(array, "float32", name) if array.dtype == np.float64 else array


def _to_float(array: Array, dtype: str, name: str) -> Array:
    with np.errstate(over="raise"):
        try:
            converted = array.astype(NUMPY_DTYPES[dtype])
        except FloatingPointError:
            raise InvalidTensor(name=name, got="a finite number that is too large", expected=dtype) from None
    if dtype == "bfloat16" and overflows_bfloat16(converted):
        raise InvalidTensor(name=name, got="a finite number that is too large", expected=dtype)
    return converted


def _to_exact(array: Array, held: str, dtype: str, name: str) -> Array:
    target = NUMPY_DTYPES[dtype]
    if held == "bfloat16":
        array = array.astype(np.float32)
    with np.errstate(invalid="ignore"):
        result = array.astype(target)
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(target).min, np.iinfo(target).max)
    if held in FLOATS:
        # The range is checked separately, since converting values out of range gives results that depend on the CPU.
        wide = array.astype(np.float64)
        kept = (wide >= low) & (wide < float(high) + 1) & (wide == np.trunc(wide))
    elif held == "bool":
        return result
    else:
        # Python integers: in NumPy, comparing int64 with uint64 would round both to float64.
        fits = array.size == 0 or (int(array.min()) >= low and int(array.max()) <= high)
        kept = np.asarray(fits) if fits else (array.astype(object) >= low) & (array.astype(object) <= high)
    if not kept.all():
        lost = array[~kept].ravel()[0] if array.ndim else array
        raise InvalidTensor(
            name=name, got=f"{held} with a value of {lost}", expected=f"{dtype}, which can't represent it"
        )
    return result
