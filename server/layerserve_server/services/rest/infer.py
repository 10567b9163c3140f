"""ModelInfer by HTTP (see `infer_body`): the body of a request is the message, and a reply is made of the results."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from layerserve_server.protocols.inference.inference_pb2 import ModelInferRequest
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.open_inference.infer_protocol import InferProtocol, infer_encoder
from layerserve_server.services.prediction.predict_protocol import Encoder, PredictionRequest, RequestedOutputs, Span
from layerserve_server.services.prediction.predictor import Predictor
from layerserve_server.services.rest import infer_body
from layerserve_server.services.rest.body_reader import BodyReader
from layerserve_server.services.rest.infer_body import JSON_LENGTH, Wanted, in_binary, json_size
from layerserve_server.services.rest.infer_encoder import BodyEncoder, reply_of
from layerserve_server.transport.call import Handler
from layerserve_server.transport.http.exchange import HttpRequest, Translated, written
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
        model, version = names["model"], names.get("version", "")
        length = headers.get(JSON_LENGTH)
        if length is None:
            return partial(self._answer_json, model, version, self._handler(model, version, None))
        return self._handler(model, version, length)

    def _handler(self, model: str, version: str, length: str | None) -> Handler:
        """Returns the handler of bodies with this header JSON_LENGTH."""
        key = model, version, length
        handler = self._handlers.get(key)
        if handler is None:
            if len(self._handlers) >= MAX_HANDLERS:
                self._handlers.clear()
            handler = self._handlers[key] = self._predictor.handler(InferBodies(self._reader, *key))
        return handler

    def _answer_json(self, model: str, version: str, as_it_is: Handler, call: Any) -> None:
        """Answers a request in JSON: with its numbers in binary, if they are few, so that it may have a template."""
        size = len(call.request)
        rewritten = in_binary(call.request) if size <= PROMPT_BYTES else None
        if rewritten is None:
            if size >= COUNTED_BYTES:
                # What is made of it: up to four bytes for each number, which has at least two there.
                call.hold(2 * size)
            as_it_is(call)
            return
        text, content = rewritten
        if len(content) >= COUNTED_BYTES:
            call.hold(len(content))
        call.request = text + content
        self._handler(model, version, str(len(text)))(call)


def translate(reader: BodyReader, request: HttpRequest) -> Translated:
    """Translates a request to a message of ModelInfer, for paths of other forms. Raises InvalidRequestError."""
    names = request.names
    bodies = InferBodies(reader, names["model"], names.get("version", ""), request.headers.get(JSON_LENGTH))
    message, wanted = bodies.read_body(request.body)
    return Translated(message.SerializeToString(), partial(reply_of, wanted))


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
        if size == 0 and self.length is not None:
            # Nothing but the elements of the model's input: `InferProtocol` has their meaning.
            message, wanted = ModelInferRequest(raw_input_contents=[body]), Wanted({}, True)
        elif self.reader.is_long(size):
            with self.reader.reading(body, infer_body.__name__, size=size) as reading:
                wanted = Wanted(**reading.line())
                message = ModelInferRequest.FromString(reading.message())
        else:
            message, wanted = infer_body.read(body, size)
        message.model_name, message.model_version = self.model, self.version
        return message, wanted

    def read(self, message: bytes) -> Any:
        """Parses a body (see `read_body`)."""
        return self.read_body(message)

    def request(self, message: Any) -> PredictionRequest:
        """Returns the meaning of a parsed body. Raises InvalidRequestError."""
        parsed, wanted = message
        request = super().request(parsed)
        names, classes = request.requested.outputs, request.requested.form
        form = classes, tuple(map(wanted.is_binary, names)), wanted.default
        return replace(request, requested=RequestedOutputs(self, names, form))

    def method_call(self, message: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
        """See `PredictProtocol`: a body as a message of ModelInfer."""
        parsed, wanted = self.read_body(message)
        return parsed.SerializeToString(), lambda reply: written(reply_of(wanted, reply))

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
        form: Any = requested.form
        classes, binary, default = form
        messages = infer_encoder(version, requested, classes, names)
        return BodyEncoder(version, messages, binary or (default,) * len(names))
