"""Predict of TensorFlow Serving as a `PredictProtocol`: how requests are read."""

from __future__ import annotations

from collections.abc import Mapping

from layerserve_server.extensions.tensorflow_serving.encoder import PredictResponseEncoder
from layerserve_server.extensions.tensorflow_serving.model_spec import model_choice
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow.tensor_pb2 import TensorProto
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.prediction_service_pb2 import (
    PredictRequest,
)
from layerserve_server.extensions.tensorflow_serving.signatures import (
    DEFAULT_KEY,
    Names,
    own_inputs,
    own_outputs,
    signature,
)
from layerserve_server.extensions.tensorflow_serving.tensors import CONTENT_FIELD, RAW_FIELDS, TensorFlowTensor
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.messages import parse
from layerserve_server.services.prediction.predict_protocol import (
    PredictionRequest,
    PredictProtocol,
    RequestedOutputs,
    Span,
)
from layerserve_server.services.prediction.wire_format import UNREAD, fields

#: Numbers of key and value in an entry of a map.
KEY, VALUE = 1, 2
#: Fields that can have the elements of a tensor.
_ELEMENTS = frozenset(field.number for field in TensorProto.DESCRIPTOR.fields if field.name.endswith("_val")) | {
    CONTENT_FIELD
}


class TensorFlowPredict(PredictProtocol):
    """Conversions of the messages of TensorFlow Serving's Predict (see `PredictProtocol`)."""

    descriptor = PredictRequest.DESCRIPTOR

    def read(self, message: bytes) -> PredictRequest:
        """Parses a request. Raises InvalidRequestError if the bytes aren't a valid message."""
        return parse(PredictRequest, message)

    def request(self, message: PredictRequest) -> PredictionRequest:
        """Returns the meaning of a message. Raises InvalidRequestError if it names no model."""
        names = Names(message.model_spec.signature_name or DEFAULT_KEY, tuple(sorted(message.inputs)))
        return PredictionRequest(
            model_choice(message.model_spec),
            RequestedOutputs(self, tuple(message.output_filter), names),
            [TensorFlowTensor(name, tensor) for name, tensor in message.inputs.items()],
        )

    def spans(self, message: bytes, request: PredictionRequest) -> tuple[list[Span], Span | None] | None:
        """See `PredictProtocol`. None if an array isn't in one field, as its bytes."""
        found: dict[str, Span] = {}
        given = {tensor.name: tensor for tensor in request.tensors}
        for number, span in fields(message, Span(0, len(message))):
            if number == UNREAD:
                return None
            if number != PredictRequest.INPUTS_FIELD_NUMBER:
                continue
            entry = list(fields(message, span))
            keys = [inner for which, inner in entry if which == KEY]
            values = [inner for which, inner in entry if which == VALUE]
            if len(entry) != 2 or len(keys) != 1 or len(values) != 1:
                return None
            tensor = given.get(message[keys[0].start : keys[0].stop].decode())
            elements = _elements(message, values[0])
            # A name may come twice: the last one counts. Numbers may also come one by one, besides those in the span.
            if tensor is None or tensor.name in found or elements is None:
                return None
            which, place = elements
            if not isinstance(tensor, TensorFlowTensor) or tensor.raw_bytes(which) != place.stop - place.start:
                return None
            found[tensor.name] = place
        if len(found) != len(given):
            return None
        return [found[tensor.name] for tensor in request.tensors], None

    def input_names(self, version: LoadedVersion, requested: RequestedOutputs) -> Mapping[str, str]:
        """Returns the model's own name for each input of a request. Raises as `own_inputs` does."""
        return own_inputs(version, _names(requested), self.output_names(version, requested))

    def output_names(self, version: LoadedVersion, requested: RequestedOutputs) -> tuple[str, ...]:
        """Returns the model's own names for the outputs of a request. Raises as `own_outputs` does."""
        return own_outputs(version, _names(requested).key, requested.outputs)

    def encoder(
        self, version: LoadedVersion, requested: RequestedOutputs, names: tuple[str, ...]
    ) -> PredictResponseEncoder:
        """Returns the encoder of PredictResponse messages, which have the names of the request, or the signature's."""
        key = _names(requested).key
        shown = requested.outputs or tuple(signature(version, key).outputs)
        return PredictResponseEncoder(version.name, version.version, key, list(zip(shown, names, strict=True)))


def _names(requested: RequestedOutputs) -> Names:
    assert isinstance(requested.form, Names)
    return requested.form


def _elements(message: bytes, tensor: Span) -> tuple[int, Span] | None:
    """Returns field and span of a tensor's elements; None if they are in several places, or not as an array's bytes."""
    found: list[tuple[int, Span]] = []
    for number, span in fields(message, tensor):
        if number == UNREAD:
            return None
        if number in _ELEMENTS:
            found.append((number, span))
    if len(found) != 1 or found[0][0] not in {CONTENT_FIELD, *RAW_FIELDS}:
        return None
    return found[0]
