"""ModelInfer by HTTP (see `infer_body`)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from layerserve import tensors

from layerserve_server.errors import InvalidRequestError
from layerserve_server.protocols.inference.inference_pb2 import ModelInferRequest, ModelInferResponse
from layerserve_server.services.open_inference.datatypes import DTYPES
from layerserve_server.services.rest import infer_body
from layerserve_server.services.rest.body_reader import BodyReader
from layerserve_server.services.rest.infer_body import BINARY_ONLY, JSON_LENGTH, Wanted, json_size
from layerserve_server.services.rest.json_text import dumps, dumps_array
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
        if self._reader.is_long(size):
            message, wanted = self._reader.infer(body, size)
        else:
            read, wanted = infer_body.read(body, size)
            message = read.SerializeToString()
        model = ModelInferRequest(model_name=request.names["model"], model_version=request.names.get("version", ""))
        # Messages that are joined are one message with the fields of both.
        return Translated(model.SerializeToString() + message, partial(_reply, wanted))


def _reply(wanted: Wanted, message: bytes) -> HttpReply:
    """Returns the reply for a ModelInferResponse."""
    response = ModelInferResponse.FromString(message)
    head: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        head["id"] = response.id
    outputs: list[bytes] = []
    blobs: list[bytes] = []
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if wanted.binary.get(tensor.name, wanted.default):
            described["parameters"] = {"binary_data_size": len(raw)}
            outputs.append(dumps(described))
            blobs.append(raw)
        else:
            outputs.append(dumps(described)[:-1] + b',"data":' + _json(tensor, raw) + b"}")
    text = dumps(head)[:-1] + b',"outputs":[' + b",".join(outputs) + b"]}"
    if not blobs:
        return HttpReply(text)
    headers = (("content-type", "application/octet-stream"), (JSON_LENGTH, str(len(text))))
    return HttpReply(b"".join((text, *blobs)), headers)


def _json(tensor: ModelInferResponse.InferOutputTensor, raw: bytes) -> bytes:
    """Returns the elements of an output as a flat list."""
    if tensor.datatype in BINARY_ONLY:
        raise InvalidRequestError(
            f"output '{tensor.name}': has datatype {tensor.datatype}, which JSON has no numbers for; set its parameter "
            "'binary_data' to true"
        )
    kind = DTYPES[tensor.datatype]
    if kind != "string":
        return dumps_array(np.frombuffer(raw, tensors.NUMPY_DTYPES[kind]))
    array = tensors.decode_data(raw, kind, tuple(tensor.shape), tensor.name)
    try:
        return dumps([element.decode() for element in array.ravel().tolist()])
    except UnicodeDecodeError:
        raise InvalidRequestError(
            f"output '{tensor.name}': has bytes that aren't Unicode; set its parameter 'binary_data' to true"
        ) from None
