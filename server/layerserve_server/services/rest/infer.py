"""ModelInfer by HTTP: JSON, with tensors in it or in binary after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from layerserve import errors as codec_errors
from layerserve import tensors

from layerserve_server.errors import InvalidRequestError, InvalidTensorError, safe_text
from layerserve_server.protocols.inference.inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse
from layerserve_server.services.open_inference.datatypes import DTYPES, dtype
from layerserve_server.services.rest.json_arrays import Place, array_of
from layerserve_server.services.rest.json_text import dumps, dumps_array, field, kind_of, loads, text_bytes
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, Translated

#: Header with the size of the JSON before the tensors in binary.
JSON_LENGTH = "inference-header-content-length"
#: Datatypes that JSON has no elements for.
BINARY_ONLY = ("FP16", "BF16")


class Wanted(NamedTuple):
    """Which outputs of a reply are in binary."""

    #: By name of output; for others `default`.
    binary: Mapping[str, bool]
    default: bool


class Binary:
    """The tensors in binary, taken one after the other."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int, label: str) -> bytes:
        """Returns the next `size` bytes. Raises InvalidRequestError if there are fewer."""
        left = len(self._data) - self._at
        if not 0 <= size <= left:
            raise InvalidRequestError(f"{label}: got {size}, expected at most {left}, the bytes left after the JSON")
        self._at += size
        return bytes(self._data[self._at - size : self._at])

    def end(self) -> None:
        """Raises InvalidRequestError if bytes are left."""
        if left := len(self._data) - self._at:
            raise InvalidRequestError(f"the body: got {left} bytes after the last tensor, expected none")


def translate(request: HttpRequest) -> Translated:
    """Translates a request of an `infer` path. Raises InvalidRequestError."""
    text, binary = _parts(request)
    value = loads(text)
    if not isinstance(value, dict):
        raise InvalidRequestError(f"the body: got {kind_of(value)}, expected an object")
    parameters = field(value, "parameters", dict, default={})
    default = field(parameters, "binary_data_output", bool, "parameters", default=False)
    message = ModelInferRequest(
        model_name=request.names["model"],
        model_version=request.names.get("version", ""),
        id=_text(value, "id", ""),
        parameters=_parameters(parameters, "parameters", ("binary_data_output",)),
    )
    inputs = field(value, "inputs", list)
    if inputs is None:
        raise InvalidRequestError("inputs: got none, expected a list of tensors")
    for index, one in enumerate(inputs):
        label = f"inputs[{index}]"
        tensor, data = _input(_object(one, label), label, binary)
        message.inputs.append(tensor)
        message.raw_input_contents.append(data)
    binary.end()
    wanted: dict[str, bool] = {}
    for index, one in enumerate(field(value, "outputs", list, default=[])):
        label = f"outputs[{index}]"
        described = _object(one, label)
        name = _text(described, "name", label)
        given = field(described, "parameters", dict, label, default={})
        wanted[name] = field(given, "binary_data", bool, f"{label}.parameters", default=default)
        message.outputs.add(name=name, parameters=_parameters(given, f"{label}.parameters", ("binary_data",)))
    return Translated(message.SerializeToString(), partial(_reply, Wanted(wanted, default)))


def _parts(request: HttpRequest) -> tuple[bytes, Binary]:
    """Returns the JSON and the binary part of a body."""
    body, length = request.body, request.headers.get(JSON_LENGTH)
    if length is None:
        return body, Binary(memoryview(b""))
    if not (length.isdecimal() and length.isascii()) or int(length[:20]) > len(body):
        raise InvalidRequestError(
            f"header '{JSON_LENGTH}': got '{safe_text(length, 40)}', expected a number up to the {len(body)} bytes of "
            "the body"
        )
    size = int(length)
    return body[:size], Binary(memoryview(body)[size:])


def _input(given: Mapping[str, Any], label: str, binary: Binary) -> tuple[ModelInferRequest.InferInputTensor, bytes]:
    """Returns an input without its elements, and those."""
    name, datatype = _text(given, "name", label), _text(given, "datatype", label)
    shape = _shape(given, label)
    parameters = field(given, "parameters", dict, label, default={})
    size = field(parameters, "binary_data_size", int, f"{label}.parameters")
    tensor = ModelInferRequest.InferInputTensor(
        name=name,
        datatype=datatype,
        shape=shape,
        parameters=_parameters(parameters, f"{label}.parameters", ("binary_data_size",)),
    )
    if size is not None:
        if "data" in given:
            raise InvalidTensorError(f"{label}: got data beside binary_data_size, expected one of them")
        return tensor, binary.take(size, f"{label}.parameters.binary_data_size")
    if "shared_memory_region" in parameters:
        return tensor, b""
    return tensor, _elements(given, name, datatype, shape, label)


def _elements(given: Mapping[str, Any], name: str, datatype: str, shape: Sequence[int], label: str) -> bytes:
    """Returns the elements of an input in JSON, flat or nested."""
    kind = dtype(datatype, name)
    if datatype in BINARY_ONLY:
        raise InvalidTensorError(f"{label}: got {datatype} in JSON, expected it in binary: JSON has no such numbers")
    if "data" not in given:
        raise InvalidTensorError(f"{label}.data: got none, expected the elements, or parameters.binary_data_size")
    array = array_of(given["data"], kind, Place(f"{label}.data"))
    try:
        count = tensors.element_count(shape, kind, name)
        if array.size != count:
            raise InvalidTensorError(
                f"{label}.data: got {array.size} elements, expected {count} for shape {list(shape)}"
            )
        return tensors.encode_data(array, kind, name)
    except codec_errors.InvalidTensor as error:
        raise InvalidTensorError(f"{label}: {error}") from error


def _shape(given: Mapping[str, Any], label: str) -> list[int]:
    shape: list[Any] | None = field(given, "shape", list, label)
    if shape is None:
        raise InvalidTensorError(f"{label}.shape: got none, expected a list of lengths")
    for index, length in enumerate(shape):
        if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length < 2**63:
            raise InvalidTensorError(f"{label}.shape[{index}]: got {kind_of(length)}, expected a length from 0")
    return shape


def _object(value: Any, label: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{label}: got {kind_of(value)}, expected an object")
    return value


def _text(given: Mapping[str, Any], key: str, label: str) -> str:
    """Returns a string; empty for an id that isn't given. Raises InvalidRequestError."""
    found: str | None = field(given, key, str, label)
    path = f"{label}.{key}" if label else key
    if found is None:
        if not label:
            return ""
        raise InvalidRequestError(f"{path}: got none, expected a string")
    text_bytes(found, path)
    return found


def _parameters(given: Mapping[str, Any], label: str, left_out: Sequence[str]) -> dict[str, InferParameter]:
    """Returns parameters as messages, but for those that concern HTTP only."""
    return {
        key: _parameter(value, f"{label}.{safe_text(key, 80)}")
        for key, value in given.items()
        if key not in left_out and text_bytes(key, label)
    }


def _parameter(value: Any, label: str) -> InferParameter:
    if isinstance(value, bool):
        return InferParameter(bool_param=value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return InferParameter(int64_param=value)
    if isinstance(value, int) and 0 <= value < 2**64:
        return InferParameter(uint64_param=value)
    if isinstance(value, float):
        return InferParameter(double_param=value)
    if isinstance(value, str):
        text_bytes(value, label)
        return InferParameter(string_param=value)
    raise InvalidRequestError(f"{label}: got {kind_of(value)}, expected a string, a number, true or false")


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
