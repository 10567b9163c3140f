"""Predict of TensorFlow Serving by HTTP: rows (`instances`) or columns (`inputs`) in JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import orjson
from layerserve import tensors

from layerserve_server.access.caller import Caller
from layerserve_server.errors import InvalidRequestError, InvalidTensorError, UnknownInputError, safe_text
from layerserve_server.inference.runner import Array, TensorSpec
from layerserve_server.protocols.tensorflow.tensor_pb2 import TensorProto
from layerserve_server.protocols.tensorflow_serving.model_pb2 import ModelSpec
from layerserve_server.protocols.tensorflow_serving.prediction_service_pb2 import PredictRequest, PredictResponse
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.prediction.contract import Choice
from layerserve_server.services.rest.json_arrays import Place, array_of
from layerserve_server.services.rest.json_text import dumps_array, field, kind_of, object_of, text_bytes
from layerserve_server.services.tensorflow_serving.model_spec import model_choice
from layerserve_server.services.tensorflow_serving.signatures import DEFAULT_KEY, Names, own_inputs, signature
from layerserve_server.services.tensorflow_serving.tensors import WIRE_TYPES, TensorFlowTensor, wire_shape
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, Translated, WouldBlockError

#: The elements of an input, by name, each with its place in the body.
Columns: TypeAlias = dict[str, tuple[Any, str, str]]
#: Ending of the names of outputs whose strings are always base64, as in TensorFlow Serving.
BYTES = "_bytes"


class Predict:
    """Translates requests of `:predict` paths. The JSON has no dtypes, so they are those of the model's inputs."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def translate(self, request: HttpRequest) -> Translated:
        """Translates a request. Raises InvalidRequestError, as `Repository.lease`, and WouldBlockError."""
        value = object_of(request.body)
        spec = model_spec(request.names)
        spec.signature_name = field(value, "signature_name", str, default="")
        text_bytes(spec.signature_name, "signature_name")
        if ("instances" in value) == ("inputs" in value):
            got = "both" if "inputs" in value else "neither"
            raise InvalidRequestError(f"the body: got {got} of 'instances' (rows) and 'inputs' (columns), expected one")
        message = PredictRequest(model_spec=spec)
        with self._leased(request, model_choice(spec)) as version:
            key = spec.signature_name or DEFAULT_KEY
            # Raises UnknownSignatureError before anything else of the body is looked at.
            named = signature(version, key)
            only = tuple(named.inputs)
            in_rows = "instances" in value
            columns = _rows(value["instances"], only) if in_rows else _columns(value["inputs"], only)
            specs = _specs(version, key, tuple(columns))
        for name, (column, label, suffix) in columns.items():
            shape = specs[name].shape
            array = array_of(column, specs[name].dtype, Place(label, suffix, shape))
            message.inputs[name].CopyFrom(_tensor(array, specs[name].dtype))
        reply = partial(_in_rows, len(value["instances"])) if in_rows else _in_columns
        return Translated(message.SerializeToString(), partial(_reply, reply, tuple(named.outputs)))

    def _leased(self, request: HttpRequest, choice: Choice) -> Any:
        _check(request.caller, choice)
        lease = self._repository.lease_loaded(*choice)
        if lease is not None:
            return lease
        if not request.may_block:
            raise WouldBlockError
        return self._repository.lease(*choice)


def model_spec(names: Mapping[str, str]) -> ModelSpec:
    """Returns the message for the version that a path names. Raises InvalidRequestError."""
    spec = ModelSpec(name=names["model"])
    if "label" in names:
        spec.version_label = names["label"]
    elif "version" in names:
        number = names["version"]
        if not (number.isascii() and number.isdecimal() and len(number) <= 18):
            raise InvalidRequestError(f"version '{safe_text(number, 40)}': expected a number")
        spec.version.value = int(number)
    return spec


def _check(caller: Caller, choice: Choice) -> None:
    """Raises ForbiddenError before the model is looked up."""
    caller.check_model("predict", choice[0])


def _specs(version: LoadedVersion, key: str, names: Sequence[str]) -> dict[str, TensorSpec]:
    """Returns the spec of each given input. Raises as `own_inputs`."""
    own = own_inputs(version, Names(key, tuple(sorted(names))), ())
    by_name = {spec.name: spec for spec in version.model.input_specs}
    return {name: by_name[own[name]] for name in names}


def _rows(rows: Any, expected: Sequence[str]) -> Columns:
    """Returns the columns of rows: objects by name of input, or the values of the only input."""
    if not isinstance(rows, list):
        raise InvalidTensorError(f"instances: got {kind_of(rows)}, expected a list of rows")
    if not rows:
        raise InvalidTensorError("instances: got a list of 0, expected at least one row")
    if not _is_named(rows[0]):
        return {_only(expected, "instances[0]", rows[0]): (rows, "instances", "")}
    names = list(rows[0])
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or row.keys() != rows[0].keys():
            got = f"the keys {', '.join(map(repr, row))}" if isinstance(row, dict) else kind_of(row)
            raise InvalidTensorError(
                f"instances[{index}]: got {safe_text(got, 200)}, expected an object with "
                f"{safe_text(', '.join(map(repr, names)), 200)}, as the first row"
            )
    return {name: ([row[name] for row in rows], "instances", _key(name)) for name in names}


def _columns(value: Any, expected: Sequence[str]) -> Columns:
    """Returns the columns of an object by name of input, or of the only input."""
    if not _is_named(value):
        return {_only(expected, "inputs", value): (value, "inputs", "")}
    return {name: (column, f"inputs{_key(name)}", "") for name, column in value.items()}


def _is_named(value: Any) -> bool:
    """Whether a value has inputs by their names, and isn't a string in base64."""
    return isinstance(value, dict) and value.keys() != {"b64"}


def _key(name: str) -> str:
    text_bytes(name, "the name of an input")
    return f".{safe_text(name, 80)}"


def _only(expected: Sequence[str], label: str, value: Any) -> str:
    if len(expected) != 1:
        raise UnknownInputError(
            f"{label}: got {kind_of(value)}, expected an object with the {len(expected)} inputs: {', '.join(expected)}"
        )
    return expected[0]


def _tensor(array: Array, dtype: str) -> TensorProto:
    proto = TensorProto(dtype=WIRE_TYPES[dtype].number, tensor_shape=wire_shape(array.shape))
    if dtype == "string":
        proto.string_val.extend(array.ravel().tolist())
    else:
        proto.tensor_content = tensors.encode_data(array, dtype)
    return proto


def _reply(write: Callable[[dict[str, Array]], bytes], order: Sequence[str], message: bytes) -> HttpReply:
    """Returns the reply for a PredictResponse, with the outputs in the signature's order."""
    outputs = PredictResponse.FromString(message).outputs
    arrays = {name: TensorFlowTensor(name, outputs[name]).array() for name in order if name in outputs}
    for name, array in arrays.items():
        if array.dtype.kind == "c":
            raise InvalidRequestError(f"output '{name}': has dtype {array.dtype}, which JSON has no numbers for")
        if array.dtype.kind == "O":
            arrays[name] = _texts(array, name)
    return HttpReply(write(arrays))


def _in_columns(arrays: dict[str, Array]) -> bytes:
    values = {name: _json(array) for name, array in arrays.items()}
    if len(values) == 1:
        return b'{"outputs":' + next(iter(values.values())) + b"}"
    return b'{"outputs":{' + b",".join(orjson.dumps(name) + b":" + text for name, text in values.items()) + b"}}"


def _in_rows(count: int, arrays: dict[str, Array]) -> bytes:
    for name, array in arrays.items():
        if array.shape[:1] != (count,):
            raise InvalidRequestError(
                f"output '{name}': has shape {list(array.shape)}, not a row for each of the {count} instances; "
                "send columns ('inputs') instead"
            )
    if len(arrays) == 1:
        return b'{"predictions":' + _json(next(iter(arrays.values()))) + b"}"
    rows = [{name: array[index] for name, array in arrays.items()} for index in range(count)]
    if all(_plain(array) for array in arrays.values()):
        text = orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)
    else:
        lists = [{name: row.tolist() if hasattr(row, "tolist") else row for name, row in one.items()} for one in rows]
        text = json.dumps(lists).encode()
    return b'{"predictions":' + text + b"}"


def _json(array: Array) -> bytes:
    return json.dumps(array.tolist()).encode() if array.dtype.kind == "O" else dumps_array(array)


def _plain(array: Array) -> bool:
    """Whether orjson writes the rows of an array."""
    return array.dtype.kind in "biu" or (array.dtype in (np.float32, np.float64) and bool(np.isfinite(array).all()))


def _texts(array: Array, name: str) -> Array:
    """Returns strings as JSON has them: as they are, or {"b64": ...} if they are bytes."""
    texts = np.empty(array.shape, dtype=object)
    texts.reshape(-1)[:] = [_text(element, name.endswith(BYTES)) for element in array.ravel().tolist()]
    return texts


def _text(element: bytes, as_bytes: bool) -> Any:
    if not as_bytes:
        try:
            return element.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(element).decode()}
