"""Serialization of messages with arrays, whose elements are copied only once, when the parts are joined.

protobuf copies them twice (into a message, then out of it), which is most of a call's overhead beyond gRPC itself. The
result is the same as protobuf's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from layerserve.v1 import tensor_pb2
from layerserve.values import tensors
from layerserve.values.tensors import Array

#: Dtypes with the same bytes in memory and on the wire.
WIRE_TYPES = tensors.BY_DTYPE

#: Maximum number of cached tensor heads. There is one per name, dtype and shape, and clients choose the number of rows.
MAX_HEADS = 1024

_SMALL = tuple(bytes([value]) for value in range(128))


def varint(value: int) -> bytes:
    """Encodes a non-negative integer with seven bits per byte, the lowest first."""
    if value < 128:
        return _SMALL[value]
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)


def tag(field_number: int) -> bytes:
    """Returns the tag of a length-delimited field (wire type 2)."""
    return varint(field_number << 3 | 2)


_SHAPE_TAG = tag(tensor_pb2.Tensor.SHAPE_FIELD_NUMBER)
_DATA_TAG = tag(tensor_pb2.Tensor.DATA_FIELD_NUMBER)


class TensorWriter:
    """Serializes tensors as a field of a message."""

    def __init__(self, field_number: int) -> None:
        self._tag = tag(field_number)
        self._heads: dict[tuple[str, np.dtype[Any], tuple[int, ...]], bytes] = {}

    def write(self, parts: list[Any], name: str, array: Array, dtype: str | None = None) -> None:
        """Appends the field's parts for `b"".join`: bytes, and the array itself. `dtype` is as in `tensors.encode`."""
        if array.dtype not in WIRE_TYPES or dtype == "bfloat16":
            content = tensors.encode(array, name, dtype).SerializeToString()
            parts += (self._tag, varint(len(content)), content)
            return
        parts += (self.head(name, array), np.ascontiguousarray(array))

    def head(self, name: str, array: Array) -> bytes:
        """Returns the field's bytes before the elements, for an array whose dtype is in `WIRE_TYPES`."""
        key = name, array.dtype, array.shape
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= MAX_HEADS:
                self._heads = {}
            head = self._heads[key] = self._write_head(name, array)
        return head

    def _write_head(self, name: str, array: Array) -> bytes:
        enum = tensors.dtype_enum(WIRE_TYPES[array.dtype])
        head = tensor_pb2.Tensor(name=name, dtype=enum).SerializeToString()
        if array.ndim:
            lengths = b"".join(map(varint, array.shape))
            head = b"".join((head, _SHAPE_TAG, varint(len(lengths)), lengths))
        size = array.nbytes
        if size:
            head = b"".join((head, _DATA_TAG, varint(size)))
        return b"".join((self._tag, varint(len(head) + size), head))
