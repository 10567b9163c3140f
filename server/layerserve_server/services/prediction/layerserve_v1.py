"""The protocol layerserve.v1: Predict and PredictStream."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from layerserve.v1 import prediction_pb2, tensor_pb2
from layerserve.values import tensors
from layerserve.values.wire import tag, varint

from layerserve_server.errors import InvalidRequestError
from layerserve_server.inference.runner import Array
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.messages import choice, decode, parse
from layerserve_server.services.prediction.encoder import Encoder
from layerserve_server.services.prediction.predict_protocol import (
    PredictionRequest,
    PredictProtocol,
    RequestedOutputs,
    Span,
)
from layerserve_server.services.prediction.sequence_step import MAX_ID, SequenceStep
from layerserve_server.services.prediction.wire_format import UNREAD, fields
from layerserve_server.transport.perimeter.message_size import is_long
from layerserve_server.transport.status import Failure

_Request = prediction_pb2.PredictRequest
_Tensor = tensor_pb2.Tensor

RESPONSE_TAG = tag(prediction_pb2.PredictStreamResponse.RESPONSE_FIELD_NUMBER)


class LayerserveV1(PredictProtocol):
    """Conversions of the messages of layerserve.v1.PredictionService (see `PredictProtocol`)."""

    descriptor = _Request.DESCRIPTOR

    def read(self, message: bytes) -> prediction_pb2.PredictRequest:
        """Parses a request. Raises InvalidRequestError if the bytes aren't a valid message."""
        return parse(_Request, message)

    def request(self, message: prediction_pb2.PredictRequest) -> PredictionRequest:
        """Returns the meaning of a message. Raises InvalidRequestError if it names no model."""
        return PredictionRequest(
            choice(message.model),
            RequestedOutputs(self, tuple(message.outputs)),
            [V1Tensor(tensor) for tensor in message.inputs],
            message.id,
            message.priority,
            message.max_queue_ms / 1000 if message.max_queue_ms else None,
            _sequence(message.sequence) if message.HasField("sequence") else None,
        )

    def spans(self, message: bytes, request: PredictionRequest) -> tuple[list[Span], Span | None] | None:
        """See `PredictProtocol`. None if a field occurs twice, so that the last one counts, or has a group."""
        ids: list[Span] = []
        data: list[Span] = []
        for number, span in fields(message, Span(0, len(message))):
            if number == UNREAD:
                return None
            if number == _Request.ID_FIELD_NUMBER:
                ids.append(span)
            elif number == _Request.INPUTS_FIELD_NUMBER:
                inner = list(fields(message, span))
                found = [found_span for which, found_span in inner if which == _Tensor.DATA_FIELD_NUMBER]
                if len(found) != 1 or any(which == UNREAD for which, _ in inner):
                    return None
                data += found
        if len(ids) > 1 or len(data) != len(request.tensors):
            return None
        return data, ids[0] if ids else None

    def encoder(self, version: LoadedVersion, requested: RequestedOutputs, names: tuple[str, ...]) -> Encoder:
        """Returns the encoder of PredictResponse messages."""
        return Encoder(version.name, version.version, names)

    # Of streams.

    ordered = False

    def is_long_streamed(self, message: bytes) -> bool:
        """Whether reading a message of PredictStream may delay others."""
        return is_long(message, prediction_pb2.PredictStreamRequest.DESCRIPTOR)

    def read_streamed(self, message: bytes) -> prediction_pb2.PredictRequest:
        """Parses a message of PredictStream. Raises as `read` does."""
        return parse(prediction_pb2.PredictStreamRequest, message).request

    def wrap(self, reply: bytes) -> bytes:
        """Returns the message of PredictStream that has a serialized PredictResponse."""
        return b"".join((RESPONSE_TAG, varint(len(reply)), reply))

    def refusal(self, id: str, wire: Failure) -> bytes:
        """Returns the message of PredictStream that has an error."""
        texts = {key: value for key, value in wire.metadata if isinstance(value, str)}
        refused = prediction_pb2.PredictError(id=id, code=wire.code.value[0], message=wire.text, metadata=texts)
        return prediction_pb2.PredictStreamResponse(error=refused).SerializeToString()


def _sequence(message: prediction_pb2.Sequence) -> SequenceStep:
    if len(message.id) > MAX_ID:
        raise InvalidRequestError(f"sequence.id: got {len(message.id)} characters, expected at most {MAX_ID}")
    return SequenceStep(message.id, message.start, message.end)


@dataclass(frozen=True)
class V1Tensor:
    """A tensor of a PredictRequest (see `GivenTensor`)."""

    _message: tensor_pb2.Tensor

    @property
    def name(self) -> str:
        return self._message.name

    @property
    def dtype(self) -> str:
        return tensors.known_dtype(self._message.dtype)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._message.shape)

    @property
    def data(self) -> bytes:
        return self._message.data

    def array(self) -> Array:
        return decode(self._message)
