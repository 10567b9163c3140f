"""Values of JSON to arrays, with errors that name the element. Imports no torch."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from layerserve.values import tensors

from layerserve_server.errors import InvalidTensorError
from layerserve_server.services.rest.json_text import kind_of, text_bytes

Array: TypeAlias = npt.NDArray[Any]

#: What elements are called in error texts, by kind of dtype.
ELEMENTS = {"bool": "true or false", "int": "an integer", "float": "a number", "string": "a string"}
#: Maximum number of axes of an array in NumPy 1; more can't be a tensor here.
MAX_AXES = 32


class Place(NamedTuple):
    """Where a value is in the JSON, for error texts: element 3 is "instances[3]", or "instances[3].x" with a key."""

    label: str
    key: str = ""
    #: The lengths of the model's input, if it has this number of axes; None for an axis of any length.
    shape: Sequence[int | None] = ()

    @property
    def whole(self) -> str:
        """The place of all elements."""
        return self.label + self.key

    def of(self, at: int, shape: tuple[int, ...]) -> str:
        """Returns the place of the element that is at this position among all of an array of this shape."""
        index = [f"[{one}]" for one in np.unravel_index(at, shape)]
        return self.label + "".join(index[:1]) + self.key + "".join(index[1:])


def array_of(value: Any, dtype: str, place: Place) -> Array:
    """Returns nested lists as an array of this dtype.

    Raises InvalidTensorError if the lists differ in length, or an element isn't of this type or doesn't fit.
    """
    shape = shape_of(value, place)
    if dtype == "string":
        texts = np.empty(shape, dtype=object)
        flat = [_text(element, path) for element, path in elements(value, shape, place)]
        texts.reshape(-1)[:] = flat
        return texts
    kind = _kind(dtype)
    if (packed := _packed(value, kind, dtype, shape)) is not None:
        return packed
    array = _fast(value, kind)
    if array is None or array.shape != shape:
        # Something is wrong, or numbers are large: one by one.
        array = _checked(value, kind, shape, place)
    return _fitting(array, dtype, place)


def shape_of(value: Any, place: Place) -> tuple[int, ...]:
    """Returns the lengths of the first elements of nested lists, whose others haven't been looked at."""
    shape: list[int] = []
    while isinstance(value, list):
        if len(shape) == MAX_AXES:
            raise InvalidTensorError(f"{place.whole}: got more than {MAX_AXES} nested lists, expected a tensor")
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def elements(value: Any, shape: tuple[int, ...], place: Place) -> Iterator[tuple[Any, str]]:
    """Yields the elements of nested lists, each with its path. Raises InvalidTensorError if lengths aren't `shape`."""
    if not shape:
        yield value, place.whole
        return
    expected = shape
    if len(place.shape) == len(shape):
        expected = tuple(got if length is None else length for got, length in zip(shape, place.shape, strict=True))
    for index, row in enumerate(value):
        yield from _walk(row, expected[1:], f"{place.label}[{index}]{place.key}")


def _walk(value: Any, shape: tuple[int, ...], path: str) -> Iterator[tuple[Any, str]]:
    if not shape:
        if isinstance(value, list):
            raise InvalidTensorError(f"{path}: got {kind_of(value)}, expected a single element")
        yield value, path
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        what = "elements" if len(shape) == 1 else "lists"
        raise InvalidTensorError(f"{path}: got {kind_of(value)}, expected a list of {shape[0]} {what}")
    for index, inner in enumerate(value):
        yield from _walk(inner, shape[1:], f"{path}[{index}]")


def _packed(value: Any, kind: str, dtype: str, shape: tuple[int, ...]) -> Array | None:
    """Returns numbers on one or two axes as an array, in half the time of `_fast`; None if they may need that."""
    if kind == "bool" or dtype not in _PACKED or not 1 <= len(shape) <= 2 or 0 in shape:
        return None
    code, wide, low, high = _PACKED[dtype]
    pack, length = struct.Struct(f"{shape[-1]}{code}").pack, shape[-1]
    try:
        if len(shape) == 1:
            content = pack(*value)
        elif all(type(row) is list and len(row) == length for row in value):
            content = b"".join([pack(*row) for row in value])
        else:
            return None
    except (struct.error, OverflowError):
        return None
    array = np.frombuffer(content, wide).reshape(shape)
    # Neither infinities, NaN nor what doesn't fit.
    if not low <= array.min() <= array.max() <= high:
        return None
    # True and false are 1 and 0 to it.
    if ((array == 0) | (array == 1)).any() and _has_bool(value):
        return None
    return array.astype(dtype)


#: By dtype: how `struct` names its widest kind, that kind, and the bounds of its numbers.
_PACKED = {
    "float32": ("d", np.float64, -3e38, 3e38),
    "float64": ("d", np.float64, -1e308, 1e308),
    "int32": ("q", np.int64, -(2**31), 2**31 - 1),
    "int64": ("q", np.int64, -(2**63), 2**63 - 1),
}


def _fast(value: Any, kind: str) -> Array | None:
    """Returns NumPy's array of a value; None if that may hide something, such as true among numbers."""
    try:
        array: Array = np.asarray(value)
    except (ValueError, OverflowError):
        return None
    expected = {"bool": "b", "int": "iu", "float": "fiu"}[kind]
    if not array.size:
        return array
    return array if array.dtype.kind in expected and (kind == "bool" or not _has_bool(value)) else None


def _has_bool(value: Any) -> bool:
    """Whether true or false is in nested lists of numbers, where NumPy takes them as 1 and 0."""
    if not isinstance(value, list):
        return isinstance(value, bool)
    if value and isinstance(value[0], list):
        return any(map(_has_bool, value))
    return bool in map(type, value)


def _checked(value: Any, kind: str, shape: tuple[int, ...], place: Place) -> Array:
    found = []
    for element, path in elements(value, shape, place):
        if not _is(element, kind):
            raise InvalidTensorError(f"{path}: got {kind_of(element)}, expected {ELEMENTS[kind]}")
        found.append(element)
    array: Array = np.empty(len(found), dtype=object)
    array[:] = found
    return array.reshape(shape)


def _is(element: Any, kind: str) -> bool:
    if isinstance(element, bool):
        return kind == "bool"
    return isinstance(element, int) if kind == "int" else kind == "float" and isinstance(element, (int, float))


def _fitting(array: Array, dtype: str, place: Place) -> Array:
    """Returns an array of numbers as another dtype. Raises InvalidTensorError if one doesn't fit."""
    target = tensors.NUMPY_DTYPES["float32" if dtype == "bfloat16" else dtype]
    if array.dtype == target:
        return array
    if target.kind in "iu" and array.size:
        bounds = np.iinfo(target)
        for at in (int(array.argmin()), int(array.argmax())):
            number = int(array.flat[at])
            if not bounds.min <= number <= bounds.max:
                raise InvalidTensorError(
                    f"{place.of(at, array.shape)}: got {kind_of(number)}, expected {bounds.min} to {bounds.max}, as in "
                    f"{dtype}"
                )
    try:
        with np.errstate(over="raise"):
            converted = array.astype(target)
        if dtype == "bfloat16" and tensors.overflows_bfloat16(converted):
            raise OverflowError
        return converted
    except (FloatingPointError, OverflowError):
        numbers = array.ravel().tolist()
        at = max(range(len(numbers)), key=lambda index: abs(numbers[index]) if abs(numbers[index]) < math.inf else 0)
        raise InvalidTensorError(
            f"{place.of(at, array.shape)}: got {kind_of(numbers[at])}, which is too large for {dtype}"
        ) from None


def _kind(dtype: str) -> str:
    if dtype == "bool":
        return "bool"
    return "int" if tensors.NUMPY_DTYPES["float32" if dtype == "bfloat16" else dtype].kind in "iu" else "float"


def _text(element: Any, path: str) -> bytes:
    """Returns the bytes of a string, which may be given as {"b64": "..."}."""
    if isinstance(element, str):
        return text_bytes(element, path)
    if isinstance(element, dict) and element.keys() == {"b64"} and isinstance(element["b64"], str):
        try:
            return base64.b64decode(element["b64"], validate=True)
        except (binascii.Error, ValueError):
            raise InvalidTensorError(f"{path}.b64: got a string that isn't base64") from None
    raise InvalidTensorError(f'{path}: got {kind_of(element)}, expected a string or {{"b64": ...}}')
