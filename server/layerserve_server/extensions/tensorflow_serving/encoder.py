"""Serialization of PredictResponse messages, with the constant parts serialized in advance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from layerserve.values import tensors
from layerserve.values.wire import MAX_HEADS, tag, varint

from layerserve_server.extensions.tensorflow_serving.model_spec import model_spec
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow.tensor_pb2 import TensorProto
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.prediction_service_pb2 import (
    PredictResponse,
)
from layerserve_server.extensions.tensorflow_serving.tensors import WIRE_TYPES, field_number, parts_of, wire_shape
from layerserve_server.inference.queue import Arrays
from layerserve_server.services.prediction.encoder import cut, fill_each, joined

#: Dtypes whose field has the bytes of an array, with their names.
RAW = {tensors.NUMPY_DTYPES[name]: name for name, wire in WIRE_TYPES.items() if wire.raw}

_OUTPUTS_TAG = tag(PredictResponse.OUTPUTS_FIELD_NUMBER)
#: Tags of key and value in an entry of a map.
_KEY_TAG, _VALUE_TAG = tag(1), tag(2)


class PredictResponseEncoder:
    """Encodes replies to requests for the same outputs of a version (see `prediction.predict_protocol.Encoder`)."""

    def __init__(self, model: str, version: int, signature: str, outputs: Sequence[tuple[str, str]]) -> None:
        """`outputs` are the names in the reply, each with the model's own name."""
        self._tail = PredictResponse(model_spec=model_spec(model, version, signature)).SerializeToString()
        self._outputs = tuple(outputs)
        self._heads: dict[tuple[str, np.dtype[Any], tuple[int, ...]], bytes] = {}

    def fill(self, results: Arrays, id: str) -> bytes:
        """Returns the serialized reply with these arrays. A PredictResponse has no id."""
        parts: list[Any] = []
        for name, own in self._outputs:
            array = results[own]
            if array.dtype in RAW:
                parts += (self._head(name, array.dtype, array.shape), np.ascontiguousarray(array))
            else:
                content = list(parts_of(array))
                parts += (_entry_head(name, sum(map(len, content))), *content)
        parts.append(self._tail)
        return joined(parts)

    def split(self, results: Arrays, rows: int, ids: Sequence[str]) -> list[bytes]:
        """Returns a serialized reply for each id, with the next `rows` rows of the results each."""
        if any(results[own].dtype not in RAW for _, own in self._outputs):
            return fill_each(self, results, rows, ids)
        columns: list[list[bytes]] = []
        for name, own in self._outputs:
            array = results[own]
            columns.append(cut(array, self._head(name, array.dtype, (rows, *array.shape[1:])), len(ids)))
        return [b"".join(parts) + self._tail for parts in zip(*columns, strict=True)]

    def _head(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
        """Returns the bytes of an output before its elements."""
        key = name, dtype, shape
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= MAX_HEADS:
                self._heads = {}
            head = self._heads[key] = _write_head(name, dtype, shape)
        return head


def _write_head(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    kind = RAW[dtype]
    tensor = TensorProto(dtype=WIRE_TYPES[kind].number, tensor_shape=wire_shape(shape)).SerializeToString()
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size:
        tensor = b"".join((tensor, tag(field_number(kind)), varint(size)))
    return _entry_head(name, len(tensor) + size) + tensor


def _entry_head(name: str, size: int) -> bytes:
    """Returns the bytes of an output before its tensor, which has `size` bytes."""
    key = name.encode()
    entry = b"".join((_KEY_TAG, varint(len(key)), key, _VALUE_TAG, varint(size)))
    return b"".join((_OUTPUTS_TAG, varint(len(entry) + size), entry))
