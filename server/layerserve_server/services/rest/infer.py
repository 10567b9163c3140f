"""ModelInfer by HTTP (see `infer_body`): the body of a request is the message, and a reply is made of the results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from layerserve_server.protocols.inference.inference_pb2 import ModelInferRequest
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.open_inference.infer_protocol import InferProtocol
from layerserve_server.services.prediction.predict_protocol import (
    Encoder,
    PredictionRequest,
    RequestedOutputs,
    Span,
)
from layerserve_server.services.prediction.predictor import Predictor
from layerserve_server.services.rest import infer_body
from layerserve_server.services.rest.body_reader import BodyReader
from layerserve_server.services.rest.infer_body import JSON_LENGTH, Wanted, json_size
from layerserve_server.services.rest.infer_encoder import BodyEncoder
from layerserve_server.transport.call import Call, Handler
from layerserve_server.transport.perimeter.limits import COUNTED_BYTES, PROMPT_BYTES

#: Maximum number of handlers that are kept. Clients choose what they are for, so there has to be a limit.
MAX_HANDLERS = 512
#: The id of a request whose JSON begins with it, as clients write it.
_ID = re.compile(rb'\{"id": ?"([^"\\]*)"')


class Infer:
    """Answers requests of `infer` paths."""

    def __init__(self, predictor: Predictor, reader: BodyReader) -> None:
        """`reader` reads long bodies."""
        self._predictor = predictor
        self._reader = reader
        self._handlers: dict[tuple[str, str, str | None], Handler] = {}

    def handler(self, names: Mapping[str, str], headers: Mapping[str, str]) -> Handler:
        """Returns the handler of requests of a path with these names."""
        key = names["model"], names.get("version", ""), headers.get(JSON_LENGTH)
        handler = self._handlers.get(key)
        if handler is None:
            if len(self._handlers) >= MAX_HANDLERS:
                self._handlers.clear()
            bodies = InferBodies(self._reader, *key)
            handler = self._handlers[key] = partial(_hold, self._predictor.handler(bodies), bodies)
        return handler


def _hold(handler: Handler, bodies: InferBodies, call: Call) -> None:
    """Counts what is made of the JSON of a request, up to four bytes for each number, which has at least two there."""
    size = json_size(call.request, bodies.length)
    if size >= COUNTED_BYTES:
        call.hold(2 * size)
    handler(call)


@dataclass(frozen=True)
class InferBodies(InferProtocol):
    """Bodies of one path, as messages. All paths have the same endpoints."""

    reader: BodyReader = field(compare=False)
    model: str = field(compare=False)
    version: str = field(compare=False)
    #: The header JSON_LENGTH.
    length: str | None = field(compare=False)

    def is_long(self, message: bytes) -> bool:
        """Whether reading a body may delay other calls: its tensors in binary are read where they are."""
        return json_size(message, self.length) > PROMPT_BYTES

    def read_body(self, body: bytes) -> tuple[ModelInferRequest, Wanted]:
        """Returns the message of a body, and which outputs are in binary. Raises InvalidRequestError."""
        size = json_size(body, self.length)
        if self.reader.is_long(size):
            with self.reader.reading(body, infer_body.__name__, size=size) as reading:
                wanted = Wanted(**reading.line())
                message = ModelInferRequest.FromString(reading.message())
        else:
            message, wanted = infer_body.read(body, size)
        message.model_name, message.model_version = self.model, self.version
        return message, wanted

    def read(self, message: bytes) -> ModelInferRequest:
        """Parses a body. Raises InvalidRequestError."""
        return self.read_body(message)  # type: ignore[return-value]

    def request(self, message: object) -> PredictionRequest:
        """Returns the meaning of a parsed body. Raises InvalidRequestError."""
        parsed, wanted = message  # type: ignore[misc]
        request = super().request(parsed)
        names, classes = request.requested.outputs, request.requested.form
        form = classes, tuple(wanted.binary.get(name, wanted.default) for name in names), wanted.default
        return replace(request, requested=RequestedOutputs(self, names, form))

    def spans(self, message: bytes, request: PredictionRequest) -> tuple[list[Span], Span | None] | None:
        """See `PredictProtocol`. None unless all tensors are in binary, and an id is where clients write it."""
        at = size = json_size(message, self.length)
        data: list[Span] = []
        for tensor in request.tensors:
            data.append(Span(at, at := at + len(tensor.data)))
        if at != len(message):
            return None
        if not request.id:
            return data, None
        text = message[:size]
        found = _ID.match(text)
        # The last one of several counts, and a backslash may hide one.
        if found is None or text.count(b'"id"') > 1 or b"\\" in text:
            return None
        return data, Span(*found.span(1))

    def plain_id(self, id: bytes) -> bool:
        """Whether an id is what these bytes of a message are, as in JSON."""
        return id.isascii() and id.decode().isprintable() and b'"' not in id and b"\\" not in id

    def encoder(self, version: LoadedVersion, requested: RequestedOutputs, names: tuple[str, ...]) -> Encoder:
        """Returns the encoder of replies. Raises InvalidTensorError for dtypes that the protocol lacks."""
        classes, binary, default = requested.form  # type: ignore[misc]
        made = super().encoder(version, RequestedOutputs(self, requested.outputs, classes), names)
        return BodyEncoder(version, made, binary or (default,) * len(names))
