"""Conversion of what a user has to the element type that a model's input takes, without silent loss.

Keras's rule for numbers going into floats is kept: they are rounded without a word (an int list and a float64 array
feed a float32 input). Everything else keeps every value or is refused: 1.0 may become the int 1, 1.5 may not; 300 may
not become a uint8; a float that is finite may not become infinite.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from layerserve.errors import InvalidTensor
from layerserve.tensors import NUMPY_DTYPES, Array, array_dtype

FLOATS = frozenset({"float16", "float32", "float64", "bfloat16"})


def as_array(value: Any, name: str) -> Array:
    """The array that a value holds: an array, a nested list, a scalar, or what gives an array (`__array__`).

    Raises InvalidTensor for lists whose rows differ in length.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InvalidTensor(name=name, got=f"{type(value).__name__} ({error})", expected="an array") from error
    if array.dtype.kind == "O":
        _check_strings(array, name)
    return array


def _check_strings(array: Array, name: str) -> None:
    for element in array.ravel().tolist():
        if not isinstance(element, (str, bytes)):
            raise InvalidTensor(
                name=name, got=f"an array with a {type(element).__name__} in it", expected="numbers, or str or bytes"
            )


def cast(array: Array, dtype: str, name: str) -> Array:
    """The array in the NumPy type that `dtype` is encoded from, unchanged where it has it already.

    Raises InvalidTensor where values would be lost, and between text and numbers.
    """
    held = array_dtype(array, name)
    if held == dtype:
        return array
    if array.size == 0 and array.dtype == np.float64:
        # An empty list has no element type of its own; NumPy calls it float64.
        return array.astype(NUMPY_DTYPES[dtype])
    if "string" in (held, dtype):
        raise InvalidTensor(name=name, got=f"dtype {held}", expected=dtype)
    if dtype in FLOATS:
        return _to_float(array, dtype, name)
    return _to_exact(array, held, dtype, name)


def default_cast(array: Array, name: str) -> Array:
    """The array as Keras takes what it knows no type for, such as targets: float64 becomes float32, all else stays."""
    return _to_float(array, "float32", name) if array.dtype == np.float64 else array


def _to_float(array: Array, dtype: str, name: str) -> Array:
    with np.errstate(over="raise"):
        try:
            return array.astype(NUMPY_DTYPES[dtype])
        except FloatingPointError:
            raise InvalidTensor(name=name, got="a finite number too large for it", expected=dtype) from None


def _to_exact(array: Array, held: str, dtype: str, name: str) -> Array:
    target = NUMPY_DTYPES[dtype]
    if held == "bfloat16":
        array = array.astype(np.float32)
    with np.errstate(invalid="ignore"):
        result = array.astype(target)
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(target).min, np.iinfo(target).max)
    if held in FLOATS:
        # The range is asked for apart: out of it, what a conversion gives depends on the processor.
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
        raise InvalidTensor(name=name, got=f"{held} with a value of {lost}", expected=f"{dtype}, which can't hold it")
    return result
