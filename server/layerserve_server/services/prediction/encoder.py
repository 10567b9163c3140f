"""Serialization of PredictResponse messages, with the constant parts serialized in advance."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from layerserve.v1 import prediction_pb2, tensor_pb2
from layerserve.values.wire import WIRE_TYPES, TensorWriter

from layerserve_server.inference.queue import Arrays
from layerserve_server.inference.runner import Array
from layerserve_server.services.prediction import predict_protocol
from layerserve_server.transport.chunking import CHUNK_BYTES


class Encoder:
    """Encodes replies to requests for the same outputs of a version."""

    def __init__(self, model: str, version: int, outputs: Sequence[str]) -> None:
        spec = tensor_pb2.ModelSpec(name=model, version=version)
        self._head = prediction_pb2.PredictResponse(model=spec).SerializeToString()
        self._outputs = tuple(outputs)
        self._tensors = TensorWriter(prediction_pb2.PredictResponse.OUTPUTS_FIELD_NUMBER)

    def fill(self, results: Arrays, id: str) -> bytes:
        """Returns the serialized reply with these arrays."""
        parts: list[Any] = [self._head]
        for name in self._outputs:
            self._tensors.write(parts, name, results[name])
        if id:
            parts.append(prediction_pb2.PredictResponse(id=id).SerializeToString())
        return joined(parts)

    def split(self, results: Arrays, rows: int, ids: Sequence[str]) -> list[bytes]:
        """Returns a serialized reply for each id, with the next `rows` rows of the results each."""
        if any(results[name].dtype not in WIRE_TYPES for name in self._outputs):
            return fill_each(self, results, rows, ids)
        columns = [
            cut(results[name], self._tensors.head(name, results[name][:rows]), len(ids)) for name in self._outputs
        ]
        messages = [self._head + b"".join(parts) for parts in zip(*columns, strict=True)]
        return [
            message + prediction_pb2.PredictResponse(id=id).SerializeToString() if id else message
            for message, id in zip(messages, ids, strict=True)
        ]


def joined(parts: Sequence[Any]) -> bytes:
    """Returns parts as `b"".join` does: bytes, views of bytes, and contiguous arrays."""
    if sum(part.nbytes if isinstance(part, (np.ndarray, memoryview)) else len(part) for part in parts) <= CHUNK_BYTES:
        return b"".join(parts)
    stream = io.BytesIO()
    for part in parts:
        view = part.reshape(-1).view(np.uint8).data if isinstance(part, np.ndarray) else memoryview(part)
        for start in range(0, len(view), CHUNK_BYTES):
            stream.write(view[start : start + CHUNK_BYTES])
    return stream.getvalue()


def fill_each(encoder: predict_protocol.Encoder, results: Arrays, rows: int, ids: Sequence[str]) -> list[bytes]:
    """Returns a serialized reply for each id, with the next `rows` rows of the results each, encoded one by one."""
    return [
        encoder.fill({name: array[start : start + rows] for name, array in results.items()}, id)
        for start, id in zip(range(0, rows * len(ids), rows), ids, strict=True)
    ]


def cut(array: Array, head: bytes, count: int) -> list[bytes]:
    """Returns the bytes of an array in `count` equal parts, each after `head`."""
    content, size = array.tobytes(), array.nbytes // count
    return [head + content[index * size : (index + 1) * size] for index in range(count)]
