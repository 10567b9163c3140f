"""The body of a ModelInfer request: JSON, with tensors in it or in binary after it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from layerserve import errors as codec_errors
from layerserve.values import tensors

from layerserve_server.errors import InvalidRequestError, InvalidTensorError, safe_text
from layerserve_server.jobs.channel import Channel
from layerserve_server.protocols.inference.inference_pb2 import InferParameter, ModelInferRequest
from layerserve_server.services.open_inference.datatypes import DTYPES, dtype
from layerserve_server.services.prediction.places import REGION
from layerserve_server.services.rest.body_job import send_outline
from layerserve_server.services.rest.json_arrays import Place, array_of
from layerserve_server.services.rest.json_text import field, kind_of, loads, text_bytes

#: Header with the size of the JSON before the tensors in binary.
JSON_LENGTH = "inference-header-content-length"
#: Maximum number of digits in it.
MAX_DIGITS = 18
#: A body, for errors.
EXAMPLE = '{"inputs": [{"name": ..., "datatype": ..., "shape": [...], "data": [...]}]}'
#: Parameters of inputs whose elements aren't in the JSON.
_ELSEWHERE = frozenset({"binary_data_size", REGION})
#: Datatypes that JSON has no elements for.
BINARY_ONLY = ("FP16", "BF16")


class Wanted(NamedTuple):
    """Which outputs of a reply are in binary."""

    #: By name of output; for others `default`.
    binary: Mapping[str, bool]
    default: bool

    def is_binary(self, output: str) -> bool:
        """Whether an output is in binary."""
        return self.binary.get(output, self.default)


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


def json_size(body: bytes, length: str | None) -> int:
    """Returns the size of the JSON of a body, by the header. Raises InvalidRequestError if that is wrong."""
    if length is None:
        return len(body)
    if not (length.isdecimal() and length.isascii() and len(length) <= MAX_DIGITS) or int(length) > len(body):
        raise InvalidRequestError(
            f"header '{JSON_LENGTH}': got '{safe_text(length, 40)}', expected a number up to the {len(body)} bytes of "
            "the body"
        )
    return int(length)


def read(body: bytes, size: int) -> tuple[ModelInferRequest, Wanted]:
    """Returns the message of a body whose JSON has `size` bytes, without the model. Raises InvalidRequestError."""
    binary = Binary(memoryview(body)[size:])
    value = loads(body[:size])
    if not isinstance(value, dict):
        raise InvalidRequestError(f"the body: got {kind_of(value)}, expected an object; send {EXAMPLE}")
    parameters = field(value, "parameters", dict, default={})
    default = field(parameters, "binary_data_output", bool, "parameters", default=False)
    message = ModelInferRequest(
        id=_text(value, "id", ""), parameters=_parameters(parameters, "parameters", ("binary_data_output",))
    )
    inputs = field(value, "inputs", list)
    if inputs is None:
        hint = "; /openapi.json has the paths for other forms" if "instances" in value else ""
        raise InvalidRequestError(f"inputs: got none, expected a list of tensors{hint}")
    for index, one in enumerate(inputs):
        label = f"inputs[{index}]"
        tensor, data = _input(_object(one, label), label, binary)
        message.inputs.append(tensor)
        if data is not None:
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
    return message, Wanted(wanted, default)


def in_binary(body: bytes) -> tuple[bytes, bytes] | None:
    """Returns JSON and tensors of the same request with its numbers in binary; None if it is to be read as it is.

    Requests with other numbers then have the same JSON. Raises InvalidRequestError.
    """
    try:
        value = orjson.loads(body)
    except ValueError:
        return None
    inputs = value.get("inputs") if isinstance(value, dict) else None
    if not isinstance(inputs, list) or not all(map(_has_numbers, inputs)):
        return None
    contents: list[bytes] = []
    for index, given in enumerate(inputs):
        data = _elements(given, given["name"], given["datatype"], _shape(given, f"inputs[{index}]"), f"inputs[{index}]")
        del given["data"]
        given["parameters"] = {**given.get("parameters", {}), "binary_data_size": len(data)}
        contents.append(data)
    # Where ids are looked for.
    text = orjson.dumps({"id": value.pop("id"), **value} if "id" in value else value)
    return text, b"".join(contents)


def _has_numbers(given: Any) -> bool:
    """Whether an input has its elements as numbers in JSON, and nothing that is wrong with the rest."""
    return (
        isinstance(given, dict)
        and isinstance(given.get("name"), str)
        and isinstance(given.get("data"), list)
        and isinstance(given.get("parameters", {}), dict)
        and _ELSEWHERE.isdisjoint(given.get("parameters", {}))
        and isinstance(given.get("datatype"), str)
        and DTYPES.get(given["datatype"], "string") != "string"
    )


def read_long(body: bytes, channel: Channel, size: int) -> bytes:
    """Does what `read` does, in the process that reads long bodies: sends which outputs are wanted in binary."""
    message, wanted = read(body, size)
    send_outline(channel, wanted._asdict())
    return message.SerializeToString()


def _input(
    given: Mapping[str, Any], label: str, binary: Binary
) -> tuple[ModelInferRequest.InferInputTensor, bytes | None]:
    """Returns an input without its elements, and those; None if they are in shared memory."""
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
    wheres = sorted(_ELSEWHERE.intersection(parameters))
    if len(wheres) > 1 or (wheres and "data" in given):
        beside = "data" if "data" in given else wheres[1]
        raise InvalidTensorError(f"{label}: got {beside} beside {wheres[0]}, expected one of them")
    if size is not None:
        return tensor, binary.take(size, f"{label}.parameters.binary_data_size")
    if wheres:
        return tensor, None
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
