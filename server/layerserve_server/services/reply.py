"""The bytes of a PredictResponse, with all that never changes written ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerserve.v1 import prediction_pb2, tensor_pb2
from layerserve.wire import TensorWriter

from layerserve_server.batching import Arrays


class ReplyForm:
    """The response of one version to requests for the same outputs."""

    def __init__(self, model: str, version: int, outputs: Sequence[str]) -> None:
        spec = tensor_pb2.ModelSpec(name=model, version=version)
        self._head = prediction_pb2.PredictResponse(model=spec).SerializeToString()
        self._outputs = tuple(outputs)
        self._tensors = TensorWriter(prediction_pb2.PredictResponse.OUTPUTS_FIELD_NUMBER)

    def fill(self, results: Arrays, id: str) -> bytes:
        """The message with these arrays."""
        parts: list[Any] = [self._head]
        for name in self._outputs:
            self._tensors.write(parts, name, results[name])
        if id:
            parts.append(prediction_pb2.PredictResponse(id=id).SerializeToString())
        return b"".join(parts)
