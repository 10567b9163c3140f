"""ModelInfer by HTTP (see `infer_body`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from layerserve.values import tensors

from layerserve_server.errors import InvalidRequestError
from layerserve_server.inference.runner import Array
from layerserve_server.protocols.inference.inference_pb2 import ModelInferRequest, ModelInferResponse
from layerserve_server.services.open_inference.datatypes import DTYPES
from layerserve_server.services.prediction.encoder import joined
from layerserve_server.services.prediction.wire_format import without
from layerserve_server.services.rest import infer_body
from layerserve_server.services.rest.body_reader import BodyReader
from layerserve_server.services.rest.infer_body import BINARY_ONLY, JSON_LENGTH, Wanted, json_size
from layerserve_server.services.rest.json_text import array_pieces, dumps, written
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, Translated


class Infer:
    """Translates requests of `infer` paths."""

    def __init__(self, reader: BodyReader) -> None:
        """`reader` reads long bodies."""
        self._reader = reader

    def translate(self, request: HttpRequest) -> Translated:
        """Translates a request. Raises InvalidRequestError."""
        body = request.body
        size = json_size(body, request.headers.get(JSON_LENGTH))
        if size == 0 and JSON_LENGTH in request.headers:
            # Nothing but the elements of the model's input: `InferProtocol` has their meaning.
            wanted = Wanted({}, True)
            message = ModelInferRequest(raw_input_contents=[body]).SerializeToString()
        elif self._reader.is_long(size):
            with self._reader.reading(body, infer_body.__name__, size=size) as reading:
                wanted = Wanted(**reading.line())
                message = reading.message()
        else:
            read, wanted = infer_body.read(body, size)
            message = read.SerializeToString()
        model = ModelInferRequest(model_name=request.names["model"], model_version=request.names.get("version", ""))
        # Messages that are joined are one message with the fields of both.
        return Translated(model.SerializeToString() + message, partial(_reply, wanted))


def _reply(wanted: Wanted, message: bytes) -> HttpReply:
    """Returns the reply for a ModelInferResponse."""
    # Elements are read where they are: protobuf would copy them, with Python's lock held.
    rest, spans = without(message, {ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER})
    response = ModelInferResponse.FromString(rest)
    contents = [memoryview(message)[span.start : span.stop] for span in spans]
    text = written(_pieces(wanted, response, contents))
    blobs = [raw for tensor, raw in zip(response.outputs, contents, strict=True) if _is_binary(wanted, tensor)]
    if not blobs:
        return HttpReply(text)
    headers = (("content-type", "application/octet-stream"), (JSON_LENGTH, str(len(text))))
    return HttpReply(joined((text, *blobs)), headers)


def _is_binary(wanted: Wanted, tensor: ModelInferResponse.InferOutputTensor) -> bool:
    return wanted.binary.get(tensor.name, wanted.default)


def _pieces(wanted: Wanted, response: ModelInferResponse, contents: Sequence[memoryview]) -> Iterator[bytes]:
    """Yields the JSON of a reply. `contents` are the elements of its outputs."""
    head: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        head["id"] = response.id
    yield dumps(head)[:-1] + b',"outputs":['
    for index, (tensor, raw) in enumerate(zip(response.outputs, contents, strict=True)):
        if index:
            yield b","
        described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if _is_binary(wanted, tensor):
            described["parameters"] = {"binary_data_size": len(raw)}
            yield dumps(described)
        else:
            yield dumps(described)[:-1] + b',"data":'
            yield from array_pieces(_elements(tensor, raw))
            yield b"}"
    yield b"]}"


def _elements(tensor: ModelInferResponse.InferOutputTensor, raw: memoryview) -> Array:
    """Returns the elements of an output, as JSON has them."""
    if tensor.datatype in BINARY_ONLY:
        raise InvalidRequestError(
            f"output '{tensor.name}': has datatype {tensor.datatype}, which JSON has no numbers for; set its parameter "
            "'binary_data' to true"
        )
    kind = DTYPES[tensor.datatype]
    if kind != "string":
        return np.frombuffer(raw, tensors.NUMPY_DTYPES[kind])
    texts = tensors.decode_data(bytes(raw), kind, tuple(tensor.shape), tensor.name).ravel()
    try:
        for index, element in enumerate(texts):
            texts[index] = element.decode()
        return texts
    except UnicodeDecodeError:
        raise InvalidRequestError(
            f"output '{tensor.name}': has bytes that aren't Unicode; set its parameter 'binary_data' to true"
        ) from None
