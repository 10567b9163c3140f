"""Replies to `infer` requests: JSON, with outputs in it or in binary after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from layerserve.values import tensors

from layerserve_server.errors import InvalidRequestError
from layerserve_server.inference.queue import Arrays
from layerserve_server.inference.runner import Array
from layerserve_server.protocols.inference.inference_pb2 import InferParameter, ModelInferResponse
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.open_inference.datatypes import DTYPES, datatype
from layerserve_server.services.open_inference.encoder import CONVERTED, MAX_HEADS, InferEncoder
from layerserve_server.services.prediction.encoder import cut, fill_each, joined
from layerserve_server.services.prediction.places import NO_SINKS, Sink
from layerserve_server.services.prediction.wire_format import without
from layerserve_server.services.rest.infer_body import BINARY_ONLY, JSON_LENGTH, Wanted
from layerserve_server.services.rest.json_text import array_pieces, dumps, dumps_array, written
from layerserve_server.transport.http.exchange import HttpReply, UnwrittenReply
from layerserve_server.transport.http.exchange import written as written_reply

#: Maximum number of elements that are written as JSON in the thread that computes.
MAX_ELEMENTS = 4096


class BodyEncoder:
    """Encodes replies to requests for the same outputs of a version."""

    def __init__(self, version: LoadedVersion, messages: InferEncoder, binary: Sequence[bool]) -> None:
        """`messages` encodes the same as messages of gRPC. `binary` are the outputs that are in binary."""
        self._messages = messages
        self._binary = tuple(binary)
        self._names = tuple(name for name, *_ in messages.outputs)
        self._plain = not any(count for *_, count in messages.outputs)
        self._head = dumps({"model_name": version.name, "model_version": str(version.version)})[:-1]
        #: The JSON between ids and data, by dtype and shape of each output.
        self._texts: dict[tuple[tuple[str, tuple[int, ...]], ...], list[bytes]] = {}

    def fill(self, results: Arrays, id: str, sinks: Mapping[str, Sink] = NO_SINKS) -> bytes:
        """Returns the reply with these arrays, but for those that `sinks` take.

        Raises InvalidRequestError for what JSON can't have, and as the sinks do.
        """
        arrays = [results[name] for name in self._names]
        kinds = self._kinds(arrays)
        if sinks or not self._is_plain(arrays, kinds):
            message = UnwrittenReply(self._messages.fill(results, id, sinks))
            message.write = partial(reply_of, Wanted(dict(zip(self._names, self._binary, strict=True)), False))
            if sum(array.size for array in arrays) > MAX_ELEMENTS:
                return message
            return written_reply(message.write(message))
        texts = self._describe(tuple((kind, array.shape) for kind, array in zip(kinds, arrays, strict=True)))
        text = self._text(texts, arrays, id)
        blobs = [array for array, binary in zip(arrays, self._binary, strict=True) if binary]
        sizes = sum(blob.nbytes for blob in blobs)
        return joined((_headers(len(text), sizes, binary=bool(blobs)), text, *map(np.ascontiguousarray, blobs)))

    def split(self, results: Arrays, rows: int, ids: Sequence[str]) -> list[bytes]:
        """Returns a reply for each id, with the next `rows` rows of the results each."""
        arrays = [results[name] for name in self._names]
        kinds = self._kinds(arrays)
        if not all(self._binary) or any(ids) or not self._is_plain(arrays, kinds):
            return fill_each(self, results, rows, ids)
        shapes = [(rows, *array.shape[1:]) for array in arrays]
        text = self._text(self._describe(tuple(zip(kinds, shapes, strict=True))), (), "")
        head = _headers(len(text), sum(array.nbytes for array in arrays) // len(ids), binary=True) + text
        columns = [cut(array, b"" if index else head, len(ids)) for index, array in enumerate(arrays)]
        return columns[0] if len(columns) == 1 else [b"".join(parts) for parts in zip(*columns, strict=True)]

    def _kinds(self, arrays: Sequence[Array]) -> list[str]:
        pairs = zip(arrays, self._messages.outputs, strict=True)
        return [self._messages.kind(array, dtype) for array, (_, dtype, _) in pairs]

    def _is_plain(self, arrays: Sequence[Array], kinds: Sequence[str]) -> bool:
        """Whether the arrays are written here, and quickly: numbers as they are, and few of them in JSON."""
        if not self._plain or not CONVERTED.isdisjoint(kinds):
            return False
        in_json = [
            (array.size, kind) for array, kind, binary in zip(arrays, kinds, self._binary, strict=True) if not binary
        ]
        return all(size <= MAX_ELEMENTS and datatype(kind, "") not in BINARY_ONLY for size, kind in in_json)

    def _text(self, texts: Sequence[bytes], arrays: Sequence[Array], id: str) -> bytes:
        parts = [self._head, b',"id":' + dumps(id) if id else b"", texts[0]]
        in_json = (array for array, binary in zip(arrays, self._binary, strict=False) if not binary)
        for array, text in zip(in_json, texts[1:], strict=True):
            parts += (dumps_array(array.reshape(-1)), text)
        return b"".join(parts)

    def _describe(self, forms: tuple[tuple[str, tuple[int, ...]], ...]) -> list[bytes]:
        """Returns the JSON before, between and after the data of the outputs that have it there."""
        texts = self._texts.get(forms)
        if texts is None:
            if len(self._texts) >= MAX_HEADS:
                self._texts = {}
            described = zip(self._names, self._binary, forms, strict=True)
            pieces = [_described(name, kind, shape, binary) for name, binary, (kind, shape) in described]
            texts = self._texts[forms] = (b',"outputs":[' + b",".join(pieces) + b"]}").split(_DATA)
        return texts


#: In place of the data of an output. JSON has no such byte.
_DATA = b"\0"


def _described(name: str, kind: str, shape: Sequence[int], binary: bool) -> bytes:
    described: dict[str, Any] = {"name": name, "datatype": datatype(kind, name), "shape": list(shape)}
    if binary:
        size = int(np.prod(shape, dtype=np.int64)) * tensors.NUMPY_DTYPES[kind].itemsize
        described["parameters"] = {"binary_data_size": size}
        return dumps(described)
    return dumps(described)[:-1] + b',"data":' + _DATA + b"}"


def _headers(text: int, blobs: int, *, binary: bool) -> bytes:
    """Returns the headers of a reply whose JSON and tensors in binary have these sizes."""
    if not binary:
        return b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % text
    return b"content-type: application/octet-stream\r\n%s: %d\r\ncontent-length: %d\r\n\r\n" % (
        JSON_LENGTH.encode(),
        text,
        text + blobs,
    )


# Of messages: outputs that are converted, and long JSON.


def reply_of(wanted: Wanted, message: bytes) -> HttpReply:
    """Returns the reply for a ModelInferResponse."""
    # Elements are read where they are: protobuf would copy them, with Python's lock held.
    rest, spans = without(message, {ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER})
    response = ModelInferResponse.FromString(rest)
    contents = [memoryview(message)[span.start : span.stop] for span in spans]
    text = written(_pieces(wanted, response, contents))
    pairs = zip(response.outputs, contents, strict=True)
    blobs = [raw for tensor, raw in pairs if wanted.is_binary(tensor.name) and not tensor.parameters]
    if not blobs:
        return HttpReply(text)
    headers = (("content-type", "application/octet-stream"), (JSON_LENGTH, str(len(text))))
    return HttpReply(joined((text, *blobs)), headers)


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
        if tensor.parameters:
            # It is in shared memory.
            described["parameters"] = {key: _value(one) for key, one in tensor.parameters.items()}
            yield dumps(described)
        elif wanted.is_binary(tensor.name):
            described["parameters"] = {"binary_data_size": len(raw)}
            yield dumps(described)
        else:
            yield dumps(described)[:-1] + b',"data":'
            yield from array_pieces(_elements(tensor, raw))
            yield b"}"
    yield b"]}"


def _value(parameter: InferParameter) -> Any:
    return getattr(parameter, str(parameter.WhichOneof("parameter_choice")))


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
