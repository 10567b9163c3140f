"""The bytes of a PredictResponse, written around the arrays in place: an array's numbers are copied once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from layerserve import tensors
from layerserve.v1 import prediction_pb2, tensor_pb2

from layerserve_server.batching import Arrays
from layerserve_server.execution import Array

#: Types whose bytes in memory are those on the wire.
WIRE_TYPES = {dtype: name for name, dtype in tensors.NUMPY_DTYPES.items() if name not in ("string", "bfloat16")}

# Tags of the wire format: field number, and 2 for "with a length".
OUTPUTS_TAG = bytes([prediction_pb2.PredictResponse.OUTPUTS_FIELD_NUMBER << 3 | 2])
SHAPE_TAG = bytes([tensor_pb2.Tensor.SHAPE_FIELD_NUMBER << 3 | 2])
DATA_TAG = bytes([tensor_pb2.Tensor.DATA_FIELD_NUMBER << 3 | 2])


class ReplyForm:
    """The response of one version to requests for the same outputs, with all that never changes written ahead."""

    def __init__(self, model: str, version: int, outputs: Sequence[str]) -> None:
        spec = tensor_pb2.ModelSpec(name=model, version=version)
        self._model = prediction_pb2.PredictResponse(model=spec).SerializeToString()
        self._outputs = tuple(outputs)
        self._heads: dict[tuple[str, np.dtype[np.generic]], bytes] = {}

    def fill(self, results: Arrays, id: str) -> bytes:
        """The message with these arrays."""
        # Bytes and arrays: whatever has bytes.
        parts: list[Any] = [self._model]
        for name in self._outputs:
            array = results[name]
            if array.dtype in WIRE_TYPES:
                self._write(parts, name, array)
            else:
                parts += _field(OUTPUTS_TAG, tensors.encode(array, name).SerializeToString())
        if id:
            parts.append(prediction_pb2.PredictResponse(id=id).SerializeToString())
        return b"".join(parts)

    def _write(self, parts: list[Any], name: str, array: Array) -> None:
        head = self._heads.get((name, array.dtype))
        if head is None:
            dtype = tensors.dtype_enum(WIRE_TYPES[array.dtype])
            head = tensor_pb2.Tensor(name=name, dtype=dtype).SerializeToString()
            self._heads[name, array.dtype] = head
        if array.ndim:
            lengths = b"".join(map(varint, array.shape))
            head = b"".join((head, *_field(SHAPE_TAG, lengths)))
        size = array.nbytes
        if size:
            head = b"".join((head, DATA_TAG, varint(size)))
        parts += (OUTPUTS_TAG, varint(len(head) + size), head, np.ascontiguousarray(array))


def varint(value: int) -> bytes:
    """A number from 0 up, seven bits a byte, the lowest first."""
    if value < 128:
        return SMALL[value]
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)


SMALL = tuple(bytes([value]) for value in range(128))


def _field(tag: bytes, content: bytes) -> tuple[bytes, bytes, bytes]:
    return tag, varint(len(content)), content
