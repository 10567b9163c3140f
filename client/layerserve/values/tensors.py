"""The tensor codec of client and server: converts NumPy arrays to `layerserve.v1.Tensor` and back.

Numbers are row-major and little-endian. A string is its length in bytes as an unsigned 32-bit integer, then the bytes.
NumPy has no bfloat16: such a tensor is decoded to float32, which represents every bfloat16 exactly, whatever packages
are installed. An array of `ml_dtypes.bfloat16` is encoded without conversion.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from layerserve.errors import InvalidTensor
from layerserve.v1.tensor_pb2 import DataType, Tensor

Array = npt.NDArray[Any]

#: NumPy dtypes by name, in wire byte order; for bfloat16 the float32 to which it is decoded.
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "bool": np.dtype("?"),
    "uint8": np.dtype("u1"),
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
    "uint64": np.dtype("<u8"),
    "int8": np.dtype("i1"),
    "int16": np.dtype("<i2"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
    "bfloat16": np.dtype("<f4"),
    "string": np.dtype("O"),
    "complex64": np.dtype("<c8"),
    "complex128": np.dtype("<c16"),
}

#: Names of the dtypes that have the same bytes in memory and on the wire.
BY_DTYPE = {dtype: name for name, dtype in NUMPY_DTYPES.items() if name not in ("string", "bfloat16")}

_ENUMS: dict[str, DataType.ValueType] = {name: DataType.Value(f"DATA_TYPE_{name.upper()}") for name in NUMPY_DTYPES}
_NAMES: dict[int, str] = {value: name for name, value in _ENUMS.items()}

#: Maximum number of axes of a tensor, the limit of all supported NumPy releases.
MAX_RANK = 32
#: Maximum number of elements and of bytes of a shape: NumPy counts both in a signed 64-bit integer.
MAX_SIZE = 2**63 - 1

#: Length of a string, before its bytes.
LENGTH = struct.Struct("<I")
_WIRE_BFLOAT16 = np.dtype("<u2")
#: Bits of the smallest float32 that is rounded to an infinite bfloat16, and of infinity.
_FIRST_TOO_LARGE, _INFINITY = np.uint32(0x7F7F8000), np.uint32(0x7F800000)


def dtype_name(dtype: int, name: str = "") -> str:
    """Returns "float32" for DATA_TYPE_FLOAT32. `name` is the tensor's name for the error.

    Raises InvalidTensor for DATA_TYPE_UNSPECIFIED and for unknown numbers.
    """
    try:
        return _NAMES[dtype]
    except KeyError:
        got = "no dtype" if dtype == 0 else f"dtype number {dtype}"
        raise InvalidTensor(name=name, got=got, expected=f"one of {', '.join(_ENUMS)}") from None


def known_dtype(dtype: int) -> str:
    """Returns "float32" for DATA_TYPE_FLOAT32; empty for DATA_TYPE_UNSPECIFIED and unknown numbers."""
    return _NAMES.get(dtype, "")


def dtype_enum(dtype: str, name: str = "") -> DataType.ValueType:
    """Returns DATA_TYPE_FLOAT32 for "float32". Raises InvalidTensor for an unknown name."""
    try:
        return _ENUMS[dtype]
    except KeyError:
        raise InvalidTensor(name=name, got=f"dtype {dtype!r}", expected=f"one of {', '.join(_ENUMS)}") from None


def array_dtype(array: Array, name: str = "") -> str:
    """Returns the dtype as which an array is encoded. Raises InvalidTensor if there is none, such as for dates."""
    dtype = array.dtype
    found = BY_DTYPE.get(dtype)
    if found is not None:
        return found
    if dtype.kind in "OSUT":  # object, bytes, text, NumPy 2's StringDType
        return "string"
    if dtype.name in _ENUMS:  # includes ml_dtypes.bfloat16, by its name, without importing it
        return str(dtype.name)
    # On some platforms a C type such as `long long` has another name; it is recognized by kind and size.
    for known, numpy_dtype in NUMPY_DTYPES.items():
        if (dtype.kind, dtype.itemsize) == (numpy_dtype.kind, numpy_dtype.itemsize):
            return known
    raise InvalidTensor(name=name, got=f"an array of {dtype}", expected=f"one of {', '.join(_ENUMS)}")


def itemsize(dtype: str) -> int:
    """Returns the size of an element on the wire, in bytes; for "string" the minimum."""
    if dtype == "string":
        return LENGTH.size
    return 2 if dtype == "bfloat16" else NUMPY_DTYPES[dtype].itemsize


def wire_shape(shape: Iterable[int | None]) -> list[int]:
    """Converts a shape to its wire form: (None, 3) -> [-1, 3]."""
    return [-1 if axis is None else axis for axis in shape]


def read_shape(dims: Iterable[int]) -> tuple[int | None, ...]:
    """Converts a shape from its wire form: [-1, 3] -> (None, 3)."""
    return tuple(None if axis < 0 else axis for axis in dims)


def encode(array: Array, name: str = "", dtype: str | None = None) -> Tensor:
    """Encodes an array as a tensor. `dtype` is needed only to send float32 as "bfloat16".

    The array may have any byte order and memory layout. Raises InvalidTensor if its dtype isn't supported.
    """
    kind = dtype or array_dtype(array, name)
    return Tensor(name=name, dtype=dtype_enum(kind, name), shape=array.shape, data=encode_data(array, kind, name))


def encode_data(array: Array, dtype: str, name: str = "") -> bytes:
    """Encodes the elements of an array as `Tensor.data`. Raises InvalidTensor if they aren't of this dtype.

    Only bfloat16 is rounded here; other conversions, without loss, are in `layerserve.values.casting`.
    """
    held = array_dtype(array, name)
    if held != dtype and not (held == "float32" and dtype == "bfloat16"):
        raise InvalidTensor(name=name, got=f"an array of {held}", expected=dtype)
    if dtype == "string":
        return _encode_strings(array, name)
    if dtype == "bfloat16":
        bits = array.view(np.uint16) if held == "bfloat16" else _round_to_bfloat16(array)
        return bits.astype(_WIRE_BFLOAT16, copy=False).tobytes()
    return array.astype(NUMPY_DTYPES[dtype], copy=False).tobytes()


def decode(tensor: Tensor, *, copy: bool = False) -> Array:
    """Decodes a tensor to an array. Strings are decoded to an object array of `bytes`.

    Without `copy`, an array of numbers is read-only and shares the message's memory. Raises InvalidTensor if dtype,
    shape and data don't match.
    """
    kind = dtype_name(tensor.dtype, tensor.name)
    return decode_data(tensor.data, kind, tensor.shape, tensor.name, copy=copy)


def decode_data(data: bytes, dtype: str, shape: Sequence[int], name: str = "", *, copy: bool = False) -> Array:
    """Decodes `Tensor.data` to an array; see `decode`."""
    dims = tuple(shape)
    count = element_count(dims, dtype, name)
    if dtype == "string":
        return _decode_strings(data, count, name).reshape(dims)
    expected = count * itemsize(dtype)
    if len(data) != expected:
        raise InvalidTensor(
            name=name, got=f"{len(data)} bytes of data", expected=f"{expected} for shape {list(dims)} of {dtype}"
        )
    if dtype == "bfloat16":
        bits: npt.NDArray[np.uint32] = np.frombuffer(data, dtype=_WIRE_BFLOAT16).astype(np.uint32)
        widened: Array = np.left_shift(bits, np.uint32(16)).view(np.float32)
        return widened.reshape(dims)
    array = np.frombuffer(data, dtype=NUMPY_DTYPES[dtype]).reshape(dims)
    if dtype == "bool" and count and array.view(np.uint8).max() > 1:
        raise InvalidTensor(name=name, got=f"a bool of {array.view(np.uint8).max()}", expected="0 or 1")
    return array.copy() if copy else array


def element_count(shape: Sequence[int], dtype: str, name: str = "") -> int:
    """Returns the number of elements of a received shape. Raises InvalidTensor if no array can have the shape."""
    if len(shape) > MAX_RANK:
        raise InvalidTensor(name=name, got=f"{len(shape)} axes", expected=f"at most {MAX_RANK}")
    if any(axis < 0 for axis in shape):
        raise InvalidTensor(name=name, got=f"shape {list(shape)}", expected="no negative axis")
    # NumPy refuses lengths whose product overflows even if another length is 0.
    if math.prod(axis for axis in shape if axis) * 16 > MAX_SIZE:
        raise InvalidTensor(name=name, got=f"shape {list(shape)} of {dtype}", expected="a size below 2**63 bytes")
    return math.prod(shape)


def overflows_bfloat16(array: Array) -> bool:
    """Whether a finite float32 of an array becomes infinite when it is rounded to bfloat16."""
    magnitudes = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32) & np.uint32(0x7FFFFFFF)
    return bool(((magnitudes >= _FIRST_TOO_LARGE) & (magnitudes < _INFINITY)).any())


def _round_to_bfloat16(array: Array) -> npt.NDArray[np.uint16]:
    """Returns the upper halves of float32s, rounded to nearest, ties to even, as in all frameworks."""
    values = np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape)
    bits = values.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
    quiet_nan = (bits >> np.uint32(16)) | np.uint32(0x0040)  # rounding up could turn a NaN into infinity
    halves: npt.NDArray[np.uint16] = np.where(np.isnan(values), quiet_nan, rounded).astype(np.uint16)
    return halves


def _encode_strings(array: Array, name: str) -> bytes:
    parts: list[bytes] = []
    for element in array.ravel().tolist():
        if isinstance(element, str):
            element = _utf8(element, name)
        if not isinstance(element, bytes):
            raise InvalidTensor(name=name, got=f"an element of type {type(element).__name__}", expected="str or bytes")
        parts += (LENGTH.pack(len(element)), element)
    return b"".join(parts)


def _utf8(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidTensor(
            name=name, got=f"text that isn't Unicode ({error.reason})", expected="str or bytes"
        ) from None


def _decode_strings(data: bytes, count: int, name: str) -> Array:
    # Before the array is allocated: a malicious sender may declare any number of elements.
    if count * LENGTH.size > len(data):
        raise InvalidTensor(
            name=name, got=f"{len(data)} bytes of data", expected=f"at least {count * LENGTH.size} for {count} strings"
        )
    array = np.empty(count, dtype=object)
    at = 0
    for index in range(count):
        end = string_end(data, at)
        if end is None:
            raise InvalidTensor(name=name, got=f"data that ends within string {index}", expected=f"{count} strings")
        array[index] = data[at + LENGTH.size : end]
        at = end
    if at != len(data):
        raise InvalidTensor(name=name, got=f"{len(data) - at} bytes after the last string", expected="none")
    return array


def string_end(data: bytes, at: int) -> int | None:
    """Returns the end of the string whose length is at `at`; None if `data` ends within it."""
    start = at + LENGTH.size
    end = start + LENGTH.unpack_from(data, at)[0] if start <= len(data) else start
    return end if end <= len(data) else None
