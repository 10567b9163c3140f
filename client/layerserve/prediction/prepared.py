"""Prepared predictions: constant parts of requests are serialized once, and arrays are copied once per direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerserve.calls.flow import Flow
from layerserve.errors import InvalidArgument, ModelNotReady
from layerserve.models.info import model_spec
from layerserve.models.signatures import Signatures, fetch_signature
from layerserve.prediction.prediction import MAX_MESSAGE_BYTES, as_asked, output_names, read_prediction
from layerserve.v1.prediction_pb2 import PredictRequest, PredictResponse
from layerserve.values.casting import as_array, cast
from layerserve.values.inputs import as_input, match, sent_dtype
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import Array
from layerserve.values.wire import TensorWriter


class RequestForm:
    """Serializes requests to a model for the same outputs, and reads their replies."""

    def __init__(
        self, model: str, head: bytes, inputs: Sequence[TensorSpec], outputs: str | Sequence[str] | None = None
    ) -> None:
        #: Name of the model.
        self.model = model
        self._head = head
        self._inputs = tuple(inputs)
        self._outputs = outputs
        self._tensors = TensorWriter(PredictRequest.INPUTS_FIELD_NUMBER)

    def fill(self, inputs: Any) -> bytes:
        """Returns the serialized request with these inputs.

        Raises UnknownInput, MissingInput, InvalidTensor, and InvalidArgument if it is too large.
        """
        parts: list[Any] = [self._head]
        for name, value, spec in match(inputs, self._inputs, "input"):
            array = as_input(value, name, spec) if spec and spec.encoding else as_array(value, name)
            dtype = sent_dtype(array, spec) if spec else None
            self._tensors.write(parts, name, cast(array, dtype, name) if dtype else array, dtype)
        message = b"".join(parts)
        if len(message) > MAX_MESSAGE_BYTES:
            raise InvalidArgument(f"request: got {len(message)} bytes, expected at most {MAX_MESSAGE_BYTES}")
        return message

    def read(self, reply: PredictResponse) -> Array | dict[str, Array]:
        """Returns the arrays of a reply, read-only since they share its memory."""
        return as_asked(read_prediction(reply, copy=False), self._outputs)


def prepare(
    signatures: Signatures, model: str, outputs: str | Sequence[str] | None, version: int | None, label: str | None
) -> Flow[RequestForm]:
    """Flow that makes the form of requests to a model. Raises ModelNotReady if its inputs are unknown."""
    spec = model_spec(model, version, label)
    signature = signatures.get(spec) or (yield from fetch_signature(signatures, spec))
    if not signature.inputs:
        raise ModelNotReady(f"model {model!r} isn't loaded, so its inputs are unknown")
    head = PredictRequest(model=spec, outputs=output_names(outputs)).SerializeToString()
    return RequestForm(model, head, signature.inputs, outputs)
